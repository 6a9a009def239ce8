package engine

import (
	"slices"
	"strconv"
	"strings"
)

// TaskID names one visit of one task of one run.
type TaskID struct {
	Pointer   string   `json:"task"`
	Iteration []uint32 `json:"iteration,omitempty"`
	// Visit is 0 the first time and one more each time that a `then` leads back.
	Visit uint32 `json:"visit,omitempty"`
}

// Key is the id as one string: pointer, iteration path and visit, which no other id shares.
func (t TaskID) Key() string {
	var b strings.Builder
	b.Grow(len(t.Pointer) + 4 + 4*len(t.Iteration))
	b.WriteString(strconv.Itoa(len(t.Pointer)))
	b.WriteByte(':')
	b.WriteString(t.Pointer)
	for _, i := range t.Iteration {
		b.WriteByte('[')
		b.WriteString(strconv.FormatUint(uint64(i), 10))
	}
	b.WriteByte('#')
	b.WriteString(strconv.FormatUint(uint64(t.Visit), 10))
	return b.String()
}

// Equal compares two ids.
func (t TaskID) Equal(o TaskID) bool {
	return t.Pointer == o.Pointer && t.Visit == o.Visit && slices.Equal(t.Iteration, o.Iteration)
}

package expr

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"time"

	"github.com/itchyny/gojq"
)

// The budget of one evaluation and its prices. An instruction takes some 30 to 60 ns, a visited node some 3: a budget is spent in
// half a second, and what it allocated and kept is some 200 MB at the very worst. Raising a price is an incompatible change: it can make
// a replay refuse what the run did.
const (
	budget      = 48 << 20
	stepPrice   = 8
	nodePrice   = 2
	depthLimit  = 4096 // of values in flight; native functions recurse over them
	smallNodes  = 4096 // operands of quadratic functions
	smallString = 1024 // separators
	indexLimit  = 1 << 16
	bigBits     = 1024 // operands of a multiplication
	pathLimit   = 64   // steps of a path that is written to
)

var errBudget = errors.New("the expression needs more work than may be done in process")

// meter is the account of one evaluation. It is the context of the interpreter, which asks for Done before each
// instruction, and the value of a variable that the rewritten expression hands to the metering functions. It belongs to
// one goroutine.
type meter struct {
	left int
	now  time.Time
}

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Done charges one instruction.
func (m *meter) Done() <-chan struct{} {
	if m.left -= stepPrice; m.left < 0 {
		return closed
	}
	return nil
}

func (m *meter) Err() error {
	if m.left < 0 {
		return errBudget
	}
	return nil
}

func (m *meter) Deadline() (time.Time, bool) { return time.Time{}, false }
func (m *meter) Value(any) any               { return nil }

var _ context.Context = (*meter)(nil)

func (m *meter) charge(n int) error {
	if m.left -= n; m.left < 0 {
		return errBudget
	}
	return nil
}

// flat charges for one level of a value: copying or iterating it.
func (m *meter) flat(v any) error {
	switch v := v.(type) {
	case string:
		return m.charge(len(v) / 2)
	case []any:
		return m.charge(stepPrice * len(v))
	case map[string]any:
		return m.charge(2 * stepPrice * len(v))
	}
	return nil
}

// deep charges for all of a value: comparing, sorting, printing it. times is how often.
func (m *meter) deep(v any, times, depth int) error {
	if depth > depthLimit {
		return fmt.Errorf("a value is nested deeper than %d", depthLimit)
	}
	if err := m.charge(times * nodePrice); err != nil {
		return err
	}
	switch v := v.(type) {
	case string:
		return m.charge(times * len(v) / 2)
	case *big.Int:
		return m.charge(times * v.BitLen() / 8)
	case []any:
		for _, w := range v {
			if err := m.deep(w, times, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		for k, w := range v {
			if err := m.charge(times * len(k) / 2); err != nil {
				return err
			}
			if err := m.deep(w, times, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// small charges for a value whose size another one's multiplies.
func (m *meter) small(v any) error {
	if s, ok := v.(string); ok {
		return m.charge(4 * len(s))
	}
	before := m.left
	if err := m.deep(v, 1, 0); err != nil {
		return err
	}
	if before-m.left > smallNodes*nodePrice {
		return errors.New("an operand is too large for this operation in process")
	}
	return nil
}

// shallow charges for a value that `..` descends in order to write.
func (m *meter) shallow(v any) error {
	if err := m.deep(v, 1, 0); err != nil {
		return err
	}
	if deeper(v, pathLimit) {
		return fmt.Errorf("writing to each part of a value that is nested deeper than %d is not possible in process", pathLimit)
	}
	return nil
}

func deeper(v any, than int) bool {
	if than < 0 {
		return true
	}
	switch v := v.(type) {
	case []any:
		for _, w := range v {
			if deeper(w, than-1) {
				return true
			}
		}
	case map[string]any:
		for _, w := range v {
			if deeper(w, than-1) {
				return true
			}
		}
	}
	return false
}

func (m *meter) factor(v any) error {
	switch v := v.(type) {
	case string:
		return errors.New("repeating a string is not possible in process")
	case *big.Int:
		if v.BitLen() > bigBits {
			return fmt.Errorf("a factor has more than %d bits", bigBits)
		}
	}
	return m.deep(v, 4, 0)
}

func (m *meter) index(v any) error {
	switch v := v.(type) {
	case []any:
		return errors.New("searching with .[array] is not possible in process: use index(…)")
	case nil, string, map[string]any:
		return nil
	default:
		if i, ok := gojq.ToInt(v); ok && (i > indexLimit || i < -indexLimit) {
			return fmt.Errorf("an index beyond %d is not possible in process", indexLimit)
		}
		return nil
	}
}

func (m *meter) path(v any) error {
	list, ok := v.([]any)
	if !ok {
		return nil // the function itself refuses it
	}
	for _, step := range list {
		if err := m.index(step); err != nil {
			return err
		}
	}
	return m.flat(v)
}

func (m *meter) separator(v any) error {
	if s, ok := v.(string); ok && len(s) > smallString {
		return fmt.Errorf("a separator has more than %d bytes", smallString)
	}
	return nil
}

func (m *meter) digits(v any) error {
	if s, ok := v.(string); ok && len(s) > maxDigits {
		return fmt.Errorf("a number of more than %d digits", maxDigits)
	}
	return nil
}

// The metering functions, as the rewritten expression calls them. Their names cannot clash: walk refuses calls and
// definitions of whatever begins with two underscores.
const (
	meterVar   = "$__meter"
	fnFlat     = "__flat"
	fnDeep     = "__deep"
	fnWide     = "__wide" // deep, and the result is as large again
	fnSmall    = "__small"
	fnShallow  = "__shallow"
	fnFactor   = "__factor"
	fnIndex    = "__index"
	fnPath     = "__path"
	fnSep      = "__separator"
	fnDigits   = "__digits"
	fnFromJSON = "__fromjson"
	fnNow      = "__now"
)

// options are the interpreter's: the metering functions, the variables, and nothing of the world.
func options(vars []string) []gojq.CompilerOption {
	charge := func(name string, f func(*meter, any) error) gojq.CompilerOption {
		return gojq.WithFunction(name, 1, 1, func(v any, args []any) any {
			if err := f(args[0].(*meter), v); err != nil {
				return err
			}
			return v
		})
	}
	return []gojq.CompilerOption{
		gojq.WithVariables(vars),
		charge(fnFlat, (*meter).flat),
		charge(fnDeep, func(m *meter, v any) error { return m.deep(v, 1, 0) }),
		charge(fnWide, func(m *meter, v any) error { return m.deep(v, 8, 0) }),
		charge(fnSmall, (*meter).small),
		charge(fnShallow, (*meter).shallow),
		charge(fnFactor, (*meter).factor),
		charge(fnIndex, (*meter).index),
		charge(fnPath, (*meter).path),
		charge(fnSep, (*meter).separator),
		charge(fnDigits, (*meter).digits),
		gojq.WithFunction(fnFromJSON, 1, 1, fromJSON),
		gojq.WithFunction(fnNow, 1, 1, now),
	}
}

func fromJSON(v any, args []any) any {
	s, ok := v.(string)
	if !ok {
		return errors.New("fromjson needs a string")
	}
	if err := args[0].(*meter).charge(16 * len(s)); err != nil {
		return err
	}
	w, err := Decode([]byte(s))
	if err != nil {
		return err
	}
	return w
}

func now(_ any, args []any) any {
	t := args[0].(*meter).now
	if t.IsZero() {
		return errors.New("there is no time here")
	}
	return float64(t.UnixMilli()) / 1e3
}

func sameMap(a, b map[string]any) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}

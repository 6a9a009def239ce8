package approval

import "slices"

// What happens to a line.
const (
	opStays = ' '
	opGone  = '-'
	opAdded = '+'
)

// edit is one line of a comparison.
type edit struct {
	op   rune
	text string
}

// maxEdits bounds the work of comparing; two texts that differ in more lines are shown one after the other.
const maxEdits = 1000

// lineDiff tells two texts apart line by line. The lines that stay or are gone are before, those that stay or are added are
// after, whatever the texts: a poor comparison is long, never wrong.
func lineDiff(before, after []string) []edit {
	var head, tail []edit
	for len(before) > 0 && len(after) > 0 && before[0] == after[0] {
		head = append(head, edit{opStays, before[0]})
		before, after = before[1:], after[1:]
	}
	for len(before) > 0 && len(after) > 0 && before[len(before)-1] == after[len(after)-1] {
		tail = append(tail, edit{opStays, before[len(before)-1]})
		before, after = before[:len(before)-1], after[:len(after)-1]
	}
	slices.Reverse(tail)
	middle, ok := shortest(before, after)
	if !ok {
		middle = append(all(opGone, before), all(opAdded, after)...)
	}
	return slices.Concat(head, middle, tail)
}

func all(op rune, lines []string) []edit {
	out := make([]edit, 0, len(lines))
	for _, l := range lines {
		out = append(out, edit{op, l})
	}
	return out
}

// shortest finds the shortest edit script (E. W. Myers, An O(ND) Difference Algorithm and Its Variations, 1986), unless
// it has more than maxEdits.
func shortest(a, b []string) ([]edit, bool) {
	most := min(len(a)+len(b), maxEdits)
	// reach[most+k] is how far into a the diagonal k (line of a minus line of b) has come; steps keeps it for each edit.
	reach := make([]int, 2*most+2)
	var steps [][]int
	for d := 0; d <= most; d++ {
		steps = append(steps, slices.Clone(reach))
		for k := -d; k <= d; k += 2 {
			x := forward(reach, most, d, k)
			for x < len(a) && x-k < len(b) && a[x] == b[x-k] {
				x++
			}
			reach[most+k] = x
			if x >= len(a) && x-k >= len(b) {
				return script(a, b, steps, most), true
			}
		}
	}
	return nil, false
}

// forward is where the d-th edit comes out on diagonal k: by adding a line from k+1, or by dropping one from k-1.
func forward(reach []int, zero, d, k int) int {
	if k == -d || k != d && reach[zero+k-1] < reach[zero+k+1] {
		return reach[zero+k+1]
	}
	return reach[zero+k-1] + 1
}

// script walks the steps back from the end.
func script(a, b []string, steps [][]int, zero int) []edit {
	var out []edit
	x, y := len(a), len(b)
	for d := len(steps) - 1; d >= 0; d-- {
		k := x - y
		start := 0
		if d > 0 {
			start = forward(steps[d], zero, d, k)
		}
		for x > start {
			x, y = x-1, y-1
			out = append(out, edit{opStays, a[x]})
		}
		switch {
		case d == 0:
		case k == -d || k != d && steps[d][zero+k-1] < steps[d][zero+k+1]:
			y--
			out = append(out, edit{opAdded, b[y]})
		default:
			x--
			out = append(out, edit{opGone, a[x]})
		}
	}
	slices.Reverse(out)
	return out
}

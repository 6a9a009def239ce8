package dispatch

import "slices"

// Attempt is what waits for a runner. Implementations are pointers: they are compared by identity.
type Attempt interface {
	// Run and Tier do not change while the attempt is queued.
	Run() string
	Tier() string
}

// fair is a queue that takes turns between runs and is first-in first-out within one.
type fair struct {
	runs  map[string][]Attempt
	order []string // runs with attempts, the next one first
}

func (q *fair) push(a Attempt) {
	if q.runs == nil {
		q.runs = map[string][]Attempt{}
	}
	if len(q.runs[a.Run()]) == 0 {
		q.order = append(q.order, a.Run())
	}
	q.runs[a.Run()] = append(q.runs[a.Run()], a)
}

// pop takes the next attempt; nil when there is none.
func (q *fair) pop() Attempt {
	if len(q.order) == 0 {
		return nil
	}
	run := q.order[0]
	q.order = q.order[1:]
	list := q.runs[run]
	a := list[0]
	if len(list) == 1 {
		delete(q.runs, run)
	} else {
		q.runs[run] = list[1:]
		q.order = append(q.order, run)
	}
	return a
}

// remove withdraws an attempt and says whether it was there.
func (q *fair) remove(a Attempt) bool {
	list := q.runs[a.Run()]
	i := slices.Index(list, a)
	if i < 0 {
		return false
	}
	if len(list) == 1 {
		delete(q.runs, a.Run())
		q.order = slices.DeleteFunc(q.order, func(run string) bool { return run == a.Run() })
		return true
	}
	q.runs[a.Run()] = slices.Delete(slices.Clone(list), i, i+1)
	return true
}

func (q *fair) len() int {
	n := 0
	for _, list := range q.runs {
		n += len(list)
	}
	return n
}

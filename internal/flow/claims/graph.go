package claims

// flow resolves the `then` of a list and finds out which of its tasks can run more than once in one pass.
func (p *reader) flow(list []*Task, byName map[string]int) {
	for _, t := range list {
		switch t.Then {
		case "continue", "exit", "end":
			continue
		}
		target, ok := byName[t.Then]
		if !ok {
			p.fail(t.node.Get("then"), "dsl/then", "a `then` leads to a task of the same list, or is continue, exit or end", "there is no task %q in this list", clip(t.Then))
			continue
		}
		t.Target = target
	}
	if p.failed {
		return
	}
	reach := make([][]bool, len(list))
	jumps := false
	for _, t := range list {
		jumps = jumps || t.Target >= 0 && t.Target <= t.Index
	}
	if !jumps {
		p.unreachable(list, reachable(list, 0))
		return
	}
	for i := range list {
		reach[i] = reachableAfter(list, i)
		list[i].Repeats = reach[i][i]
	}
	first := reachable(list, 0)
	p.unreachable(list, first)
	p.endless(list, first)
}

// next lists the tasks that can follow i. A task that its `if` skips is followed by its successor whatever its `then` says.
func next(list []*Task, i int) []int {
	t := list[i]
	var to []int
	if t.Target >= 0 {
		to = append(to, t.Target)
	}
	if (t.Then == "continue" || t.If != nil) && i+1 < len(list) {
		to = append(to, i+1)
	}
	return to
}

// leaves says whether the list can end after task i.
func leaves(list []*Task, i int) bool {
	t := list[i]
	return t.Then == "exit" || t.Then == "end" || i+1 == len(list) && (t.Then == "continue" || t.If != nil)
}

func reachable(list []*Task, from int) []bool {
	seen := reachableAfter(list, from)
	seen[from] = true
	return seen
}

func reachableAfter(list []*Task, from int) []bool {
	seen := make([]bool, len(list))
	queue := next(list, from)
	for len(queue) > 0 {
		i := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if !seen[i] {
			seen[i] = true
			queue = append(queue, next(list, i)...)
		}
	}
	return seen
}

func (p *reader) unreachable(list []*Task, first []bool) {
	for i, t := range list {
		if !first[i] {
			p.warn(t.node, "flow/unreachable", "", "nothing leads to the task %s", t.Name)
		}
	}
}

// endless warns of a cycle that nothing leads out of.
func (p *reader) endless(list []*Task, first []bool) {
	for i, t := range list {
		if !first[i] || !t.Repeats {
			continue
		}
		out := false
		for j, can := range reachable(list, i) {
			out = out || can && (leaves(list, j) || endsInside(list[j]))
		}
		if !out {
			p.warn(t.node, "flow/endless", "give one of its tasks an `if`, or a way out", "the run cannot leave the cycle around the task %s", t.Name)
			return
		}
	}
}

// endsInside says whether a nested list can end the workflow.
func endsInside(t *Task) bool {
	for _, c := range t.Do {
		if c.Then == "end" || endsInside(c) {
			return true
		}
	}
	return false
}

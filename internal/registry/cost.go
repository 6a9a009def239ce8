package registry

import "cardea/internal/policy"

// Limits of what one plan may cost, since anybody who may speak to the hub may ask for one.
const (
	// MaxNewTasks bounds the tasks that one change brings, each counted once for every connection it names.
	MaxNewTasks = 10_000
	// MaxComparisons bounds the comparisons of a task with a policy's scope that it takes to say what everything in force may do.
	// A change that goes beyond is refused before any of them is made.
	MaxComparisons = 2_000_000
)

// asker counts the policies that policy.Set.Scope compares with a question, by what their scopes say of action and principal.
// It may count too many, and never too few.
type asker map[askedBy]int

type askedBy struct {
	action string // empty for a policy of every action
	who    policy.Ref
}

func newAsker(statements map[string]statement) asker {
	a := asker{}
	for _, s := range statements {
		if s.actions == nil {
			a[askedBy{"", s.who}]++
		}
		for _, action := range s.actions {
			a[askedBy{action, s.who}]++
		}
	}
	return a
}

func (a asker) comparisons(action string, who ...policy.Ref) int {
	n := 0
	for _, w := range who {
		n += a[askedBy{action, w}] + a[askedBy{"", w}]
	}
	return n
}

// comparisons is what it costs to say what one version may do and who may start it.
func (s *State) comparisons(w *Workflow) int {
	everyone, workflow, process := policy.Ref{}, policy.Ref{Type: "Workflow", ID: w.Title()}, policy.Ref{Type: "Process", ID: w.Process}
	use := s.asker.comparisons("use", everyone, policy.Ref{Type: "Task"}, workflow, process)
	reach := s.asker.comparisons("reach", everyone, policy.Ref{Type: "Task"}, workflow, process)
	n := 1 + s.asker.comparisons("start", everyone, policy.Ref{Type: stranger.Type}, stranger)
	for _, t := range w.Tasks {
		task := policy.TaskRef(w.Title(), t.Pointer)
		if len(t.Connections) == 0 {
			n += 1 + reach + s.asker.comparisons("reach", task)
			continue
		}
		n += len(t.Connections) * (1 + use + s.asker.comparisons("use", task))
	}
	return n
}

// weigh adds up what everything costs. Who shares a connection with whom is told to each of them, which costs the square.
func (s *State) weigh() int {
	n := 0
	for _, w := range all[*Workflow](s, KindWorkflow) {
		n += s.comparisons(w)
	}
	for _, users := range s.usedBy {
		n += len(users) * len(users)
	}
	return n
}

// affordable refuses a change that would make plans too dear, before its own is computed. A hub that is beyond the limit already may
// still take away.
func (p *planner) affordable(after *State) bool {
	tasks := 0
	for _, w := range all[*Workflow](after, KindWorkflow) {
		if p.verbs[w.ID()] == VerbNew {
			for _, t := range w.Tasks {
				tasks += max(1, len(t.Connections))
			}
		}
	}
	if tasks > MaxNewTasks {
		p.fail("this change brings %d tasks (counted once for each connection they name); at most %d are allowed: apply it in parts", tasks, MaxNewTasks)
	}
	if weight := after.weigh(); weight > MaxComparisons && weight > p.now.weigh() {
		p.fail("to say what tasks may do would take %d comparisons with policies; at most %d are allowed: remove old versions, or let policies name a process, workflow or task as principal", weight, MaxComparisons)
	}
	return len(p.plan.Errors) == 0
}

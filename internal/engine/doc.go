// Package engine is the state machine of a run, and nothing else.
//
// Step takes a state and an event and gives the next state and what has to be done about it. It promises to be a function: it
// reads no clock, draws no random number, starts no goroutine, does no I/O and changes nothing that it was given. The same
// events therefore always give the same states and the same commands, on any machine and after any crash; whoever drives it
// journals the events, and derives all else again.
//
// It refuses an event that does not fit the state (ErrRefused): such an event is not to be journalled. What a definition does
// wrong is no error of Step: it faults the run, with a problem of the standard's types.
//
// A task is named by its JSON pointer, its iteration path and its visit, so that branches, loops and jumps never confuse two
// of them. Live tasks are frames that know their parent; many may be live at once.
//
// A chain of tasks that reach nothing outside is cut after StepBudget of them: Step then asks to be called again by a
// Continued event, so that no definition holds its driver for long, and a cancellation can come between. After SpinLimit such
// tasks without a single effect the run faults: a `then` loop that computes for ever is an error of the definition.
package engine

// Package durable drives runs: it journals what happens to them, does what the pure engine commands, and survives.
//
// It promises, for every run: that an acknowledgement follows the commit that it speaks of (invariant 1); that an event and
// the run's row are committed together, and what the event causes is derived again from them after any crash; that
// replaying a journal gives the same commands, or the run is held and says so (invariant 12); that a result counts only from
// the runner, key and epoch that hold the attempt now (invariant 9); that while the authority is away nothing is attempted
// and nothing finished is lost (invariant 19); and that a run in which nothing moves costs neither a goroutine nor, once others
// are used more, memory.
//
// It refuses to guess. A failed commit ends the driver, whose successor recovers from what is durable; an event that does not fit
// is not journalled; a journal of another format is not opened.
//
// What of dispatch survives a restart is the grants: rows written without waiting, before anybody needs them. They decide
// nothing: losing one costs a repetition of an idempotent attempt, or a person's decision about a `once` one, since the
// authority alone gives out epochs.
package durable

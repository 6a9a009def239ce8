// Package expr compiles and evaluates the expressions of a definition: jq, through gojq, over JSON values.
//
// It promises that an expression is a pure function of its Scope: no clock but Scope.Now, no environment, input, modules,
// files or randomness, the same answer on every machine, and its inputs unchanged. Whoever controls the data and the
// definition can make an evaluation fail, and can never make it cost more than a fixed amount of work and memory, nor make
// it panic.
//
// How cost is bounded. jq's built-ins ignore cancellation, so a deadline is no bound. Compile therefore walks the syntax
// tree and admits what an allow-list names; everything else is Costly and refused until a capped child can evaluate it.
// What is admitted is rewritten: wherever work depends on the size of a value, and not on the number of instructions
// (comparing, sorting, joining, copying an array to append to it), the value first passes through a meter, which charges
// one budget for it. The interpreter charges the same budget for every instruction. The count depends on the expression
// and the data alone, so an evaluation that exceeds it does so again on replay.
//
// Refused for ever is whatever is ambient ($ENV, input, now without a Scope.Now, local time, modules, debug) and $secrets,
// which is the standard authorization error: secrets are for connections, and never enter an expression.
package expr

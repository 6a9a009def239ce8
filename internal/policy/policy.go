// Package policy decides. It compiles Cedar policies against the one schema that Cardea speaks, adds the baseline that
// ships in the binary, and answers each question with a verdict: allow, deny or pending.
//
// It promises that
//   - what no policy permits is denied;
//   - an evaluation error of any policy that was considered denies and names that policy, because Cedar itself would
//     skip an erroring forbid and thereby let it be switched off by whoever controls the data that it reads;
//   - a verdict is pending if and only if at least one forbid annotated @approval matched, no other forbid did, there was
//     no error, and the same question without the matched ones is allowed;
//   - the same set and the same request give the same verdict, to the byte.
//
// It refuses policies that the schema does not understand, requests that do not fit the schema, ids that are missing,
// doubled or look like the baseline's, templates, and texts beyond its bounds. It is pure: no clock, no I/O, no state
// that changes after Compile, so a Set may be shared by any number of goroutines.
package policy

// Source is one file of Cedar text. Whoever may apply resources controls it: it is bounded, parsed and checked before
// anything in it counts.
type Source struct {
	// Name is what errors are reported under, such as payroll/policy.cedar.
	Name string
	Text string
}

// Ref names an entity, such as {Connection bank}. The zero Ref names nothing and is refused.
type Ref struct {
	Type, ID string
}

// Entity is one object that policies may speak of. Attrs must fit the schema exactly: an attribute that is missing or
// unknown makes the whole request a denial.
type Entity struct {
	Ref
	Attrs   map[string]any
	Parents []Ref
}

// Decimal is a number with at most four digits after the point, written as JSON or Cedar writes it: "1204", "20000.00".
type Decimal string

// Request is one question: may Principal do Action to Resource in this Context? Values of Context and Attrs are string,
// bool, int64, Decimal, time.Time, Ref, []any (a set) and map[string]any (a record).
type Request struct {
	Principal Ref
	// Action is one of the schema's, such as use.
	Action   string
	Resource Ref
	Context  map[string]any
	// Entities holds what is known of the principal, the resource and their ancestors.
	Entities []Entity
}

// Outcome is the answer itself. The zero Outcome is Deny, so that a forgotten verdict opens nothing.
type Outcome uint8

const (
	Deny Outcome = iota
	Allow
	// Pending is a denial that an approval would lift.
	Pending
)

func (o Outcome) String() string {
	switch o {
	case Allow:
		return "allow"
	case Pending:
		return "pending"
	case Deny:
	}
	return "deny"
}

// Verdict is an answer with its explanation. The zero Verdict denies.
type Verdict struct {
	Outcome Outcome
	// Policies are the ids that determined the outcome, sorted: the permits of an allow; the forbids of a denial, or the
	// policies that could not be evaluated; for pending the forbids that ask for approval and the permits behind them.
	Policies []string
	// Lifts are the @approval forbids that stand between a pending request and its permission. Handed to Decide as
	// approved, exactly they are left out.
	Lifts []string
	// Rules are the approval rules that Lifts ask for, without doubles, sorted. Set for Pending only.
	Rules []string
	// Errors name what could not be evaluated, one sentence each. An error always denies.
	Errors []string
	// Warnings are the baseline policies that only a lone evaluator of a dev hub escaped, with their reasons.
	Warnings []string
	// Reason is one sentence for people.
	Reason string
	// Mend says whom to ask, or what to change. Empty for Allow.
	Mend string
	// Nearest tells what would have allowed a request that no policy allows, nearest first.
	Nearest []string
}

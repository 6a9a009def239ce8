package policy

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkDecide is a verdict on one attempt with the baseline and n policies of other workflows and connections.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{0, 50, 500, 5000} {
		var text strings.Builder
		for i := range n {
			fmt.Fprintf(&text, "@id(\"other-%d\") permit (principal in Workflow::\"p%d/w\", action == Action::\"use\", resource == Connection::\"c%d\") when { context.attempt < 9 };\n", i, i, i)
		}
		var chunks []string
		for s := text.String(); s != ""; {
			cut := len(s)
			if cut > 100_000 {
				cut = strings.LastIndex(s[:100_000], "\n") + 1
			}
			chunks = append(chunks, s[:cut])
			s = s[cut:]
		}
		s := compile(b, append(chunks, payroll)...)
		for name, r := range map[string]Request{
			"allow": useRequest(payTask, "bank"), "deny": useRequest("payroll/other/do/0/x", "bank"),
		} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					s.Decide(r)
				}
			})
		}
	}
}

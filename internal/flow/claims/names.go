package claims

import (
	"slices"
	"strconv"
	"strings"
)

// checkDSL says what is wrong with a DSL version, or "".
func checkDSL(s string) string {
	if slices.Contains([]string{"1.0.0", "1.0.1", "1.0.2", "1.0.3"}, s) {
		return ""
	}
	return "must be 1.0.0 to 1.0.3, not " + strconv.Quote(clip(s))
}

// checkLabel is the specification's rule for namespaces and names: one DNS label. Policies and SPIFFE ids are built of them.
func checkLabel(s string) string {
	if s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-' && strings.Trim(s, letters+digits+"-") == "" {
		return ""
	}
	return "must be 1 to 63 letters, digits and inner hyphens"
}

// checkConnection is the rule for names of connections, authentications and tiers.
func checkConnection(s string) string {
	if s != "" && len(s) <= 63 && strings.Trim(s[:1]+s[len(s)-1:], letters+digits) == "" && strings.Trim(s, letters+digits+"-_.") == "" {
		return ""
	}
	return "must be 1 to 63 letters, digits and inner hyphens, underscores and dots"
}

// checkTaskName keeps pointers of tasks plain: they become parts of SPIFFE ids and of policies, where a slash or a tilde
// would make two tasks look like one.
func checkTaskName(s string) string {
	switch s {
	case "continue", "exit", "end":
		return "is a flow directive, so `then` could not lead to it"
	}
	if s != "" && len(s) <= 63 && strings.Trim(s, letters+digits+"-_.") == "" && strings.Trim(s, ".") != "" {
		return ""
	}
	return "must be 1 to 63 letters, digits, hyphens, underscores and dots"
}

// checkSemver is https://semver.org, 2.0.0.
func checkSemver(s string) string {
	const wrong = "must be a semantic version such as 1.2.0"
	if len(s) > 128 {
		return wrong
	}
	rest, build, hasBuild := strings.Cut(s, "+")
	core, pre, hasPre := strings.Cut(rest, "-")
	numbers := strings.Split(core, ".")
	if len(numbers) != 3 || hasBuild && !identifiers(build, false) || hasPre && !identifiers(pre, true) {
		return wrong
	}
	for _, n := range numbers {
		if !numeric(n) || len(n) > 1 && n[0] == '0' {
			return wrong
		}
	}
	return ""
}

func identifiers(s string, noLeadingZero bool) bool {
	for _, id := range strings.Split(s, ".") {
		if id == "" || strings.Trim(id, letters+digits+"-") != "" || noLeadingZero && numeric(id) && len(id) > 1 && id[0] == '0' {
			return false
		}
	}
	return true
}

func numeric(s string) bool { return s != "" && strings.Trim(s, digits) == "" }

// nearest suggests the known key that differs least, if any is close.
func nearest(key string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if d := edits(strings.ToLower(clip(key)), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "did you mean " + best + "?"
}

// edits is the Levenshtein distance. Both strings are short.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

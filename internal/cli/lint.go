package cli

import "cardea/internal/flow/claims"

// LintLines shows findings as editors understand them, file:line:column first, each with its mend.
func LintLines(findings []claims.Finding) []Line {
	var lines []Line
	for _, f := range findings {
		at := Clean(f.File)
		if f.Line > 0 {
			at += F(":%d:%d", f.Line, max(f.Column, 1))
		}
		style := Red
		if f.Severity != claims.Error {
			style = Yellow
		}
		l := Line{{at + ": ", Bold}, {Clean(string(f.Severity)) + ": ", style}, {Text: Clean(f.Message)}}
		if f.Rule != "" {
			l = l.Add(Dim, F("  [%s]", f.Rule))
		}
		lines = append(lines, l)
		if f.Mend != "" {
			lines = append(lines, L("    "+Clean(f.Mend)))
		}
	}
	return lines
}

// CountErrors is how many findings stop what they are about.
func CountErrors(findings []claims.Finding) int {
	n := 0
	for _, f := range findings {
		if f.Severity == claims.Error {
			n++
		}
	}
	return n
}

// LintSum is the last line under findings.
func LintSum(files int, findings []claims.Finding) Line {
	wrong := CountErrors(findings)
	doubtful := len(findings) - wrong
	switch {
	case wrong > 0 && doubtful > 0:
		return Line{{"✘ ", Red}, {Text: Plural(wrong, "error") + ", " + Plural(doubtful, "warning") + " in " + Plural(files, "file")}}
	case wrong > 0:
		return Line{{"✘ ", Red}, {Text: Plural(wrong, "error") + " in " + Plural(files, "file")}}
	case doubtful > 0:
		return Line{{"✔ ", Green}, {Text: Plural(files, "file") + ", " + Plural(doubtful, "warning")}}
	}
	return Line{{"✔ ", Green}, {Text: Plural(files, "file") + ": nothing found"}}
}

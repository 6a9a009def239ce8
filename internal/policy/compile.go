package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// Set is a compiled set of policies, baseline included. It is immutable and safe for concurrent use.
type Set struct {
	vocabulary *vocabulary
	// policies are sorted by id; an index into it names a policy everywhere else in this package.
	policies []*statement
	byID     map[string]int
	index    map[types.EntityUID]*actionIndex
}

// statement is one policy of a set.
type statement struct {
	id string
	// rule is the approval rule that lifts a forbid; empty when nothing does.
	rule   string
	reason string
	text   string
	digest string
	file   string
	line   int
	policy *cedar.Policy
	ast    *ast.Policy
}

func (s *statement) forbids() bool  { return s.policy.Effect() == cedar.Forbid }
func (s *statement) liftable() bool { return s.rule != "" && s.forbids() }

// Problem is one thing wrong with a source, at a place that an editor can jump to.
type Problem struct {
	File      string
	Line, Col int
	// Policy is the id, when it is known.
	Policy  string
	Message string
}

func (p Problem) String() string {
	s := fmt.Sprintf("%s:%d:%d: ", p.File, p.Line, p.Col)
	if p.Policy != "" {
		s += p.Policy + ": "
	}
	return s + p.Message
}

// Problems is the error that Compile returns: all that is wrong, in the order of the sources.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// Compile parses and checks the sources and adds the baseline. The error, when there is one, is a Problems.
func Compile(srcs []Source) (*Set, error) {
	v, err := loadVocabulary()
	if err != nil {
		return nil, err
	}
	base, err := Baseline()
	if err != nil {
		return nil, err
	}
	c := &compiler{vocabulary: v, seen: map[string]*statement{}}
	if len(srcs) > maxSources {
		return nil, Problems{{File: srcs[0].Name, Line: 1, Col: 1, Message: fmt.Sprintf("%d files of policies, at most %d", len(srcs), maxSources)}}
	}
	for _, s := range base {
		c.source(s, true)
	}
	for _, s := range srcs {
		c.source(s, false)
	}
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	return c.set(), nil
}

type compiler struct {
	vocabulary *vocabulary
	statements []*statement
	seen       map[string]*statement
	problems   Problems
}

func (c *compiler) set() *Set {
	slices.SortFunc(c.statements, func(a, b *statement) int { return cmp.Compare(a.id, b.id) })
	s := &Set{vocabulary: c.vocabulary, policies: c.statements, byID: make(map[string]int, len(c.statements))}
	for i, p := range s.policies {
		s.byID[p.id] = i
	}
	s.index = buildIndex(s)
	return s
}

// source compiles one file. A file that does not parse contributes nothing but its problem.
func (c *compiler) source(src Source, baseline bool) {
	if len(src.Text) > maxSourceBytes {
		c.problem(src, 0, "", fmt.Sprintf("a file longer than %d bytes", maxSourceBytes))
		return
	}
	s, bad := scanText(src.Text)
	if bad != nil {
		c.problem(src, bad.offset, "", bad.message)
		return
	}
	list, err := cedar.NewPolicyListFromBytes(src.Name, []byte(src.Text))
	if err != nil {
		c.problems = append(c.problems, parseProblem(src, err))
		return
	}
	if len(list) != len(s.ends) || len(c.statements)+len(list) > maxPolicies {
		c.problem(src, 0, "", fmt.Sprintf("%d statements; at most %d in all", len(list), maxPolicies))
		return
	}
	for i, p := range list {
		c.statement(src, p, s.ends[i], baseline)
	}
}

func (c *compiler) statement(src Source, p *cedar.Policy, end int, baseline bool) {
	offset := p.Position().Offset
	text := src.Text[offset:end]
	sum := sha256.Sum256([]byte(text))
	st := &statement{
		text: text, digest: "sha256:" + hex.EncodeToString(sum[:]),
		file: src.Name, line: p.Position().Line, policy: p, ast: (*ast.Policy)(p.AST()),
	}
	if err := st.annotate(p, baseline); err != nil {
		c.problem(src, offset, st.id, err.Error())
		return
	}
	if other, double := c.seen[st.id]; double {
		c.problem(src, offset, st.id, fmt.Sprintf("this id stands already at %s:%d", other.file, other.line))
		return
	}
	c.seen[st.id] = st
	for _, message := range c.vocabulary.check(st.ast) {
		c.problem(src, offset+locate(text, message), st.id, message)
	}
	c.statements = append(c.statements, st)
}

func (c *compiler) problem(src Source, offset int, id, message string) {
	line, col := position(src.Text, offset)
	c.problems = append(c.problems, Problem{File: src.Name, Line: line, Col: col, Policy: id, Message: message})
}

var (
	wellFormed    = regexp.MustCompile(`^[a-z0-9](-?[a-z0-9])*$`)
	parsePosition = regexp.MustCompile(`<input>:(\d+):(\d+):? ?`)
	quotedName    = regexp.MustCompile("`([^`]+)`")
)

const maxName = 64

// annotate reads the annotations. What is not known is refused: a misspelt @approval would silently turn a gate into a
// wall, and a misspelt @id would make a policy that nobody can name.
func (s *statement) annotate(p *cedar.Policy, baseline bool) error {
	notes := p.Annotations()
	id, ok := notes["id"]
	if !ok {
		return errors.New(`every policy needs an @id("…")`)
	}
	if !isName(string(id)) {
		return fmt.Errorf("@id %.80q: an id is lower-case letters, digits and single hyphens, at most %d", string(id), maxName)
	}
	s.id = string(id)
	if strings.HasPrefix(s.id, baselinePrefix) != baseline {
		return fmt.Errorf("ids that begin with %s are the baseline's", baselinePrefix)
	}
	for _, note := range s.ast.Annotations {
		switch note.Key {
		case "id":
		case "approval":
			if !s.forbids() {
				return errors.New("@approval belongs on a forbid: it names who can lift it")
			}
			if s.rule = string(note.Value); !isName(s.rule) {
				return fmt.Errorf("@approval %.80q names no approval rule", s.rule)
			}
		case "reason":
			if s.reason = string(note.Value); s.reason == "" || len(s.reason) > 200 || strings.ContainsFunc(s.reason, isHidden) || strings.ContainsAny(s.reason, "\r\n\t") {
				return errors.New("@reason is one printable line of at most 200 bytes")
			}
		default:
			return fmt.Errorf("unknown annotation @%s; known are @id, @approval and @reason", note.Key)
		}
	}
	return nil
}

func isName(s string) bool { return len(s) <= maxName && wellFormed.MatchString(s) }

// parseProblem takes line and column out of the parser's message.
func parseProblem(src Source, err error) Problem {
	p := Problem{File: src.Name, Line: 1, Col: 1, Message: strings.TrimPrefix(err.Error(), "parser error: ")}
	if m := parsePosition.FindStringSubmatchIndex(p.Message); m != nil {
		p.Line, _ = strconv.Atoi(p.Message[m[2]:m[3]])
		p.Col, _ = strconv.Atoi(p.Message[m[4]:m[5]])
		p.Message = strings.Replace(p.Message, p.Message[m[0]:m[1]], "", 1)
	}
	p.Message = strings.TrimSpace(strings.Replace(p.Message, "parse error at ", "unexpected ", 1))
	if strings.Contains(src.Text, "?principal") || strings.Contains(src.Text, "?resource") {
		p.Message += " (templates are not supported)"
	}
	return p
}

// locate finds in a policy's text what a message quotes in backticks, such as an attribute or an entity type; 0 when
// it cannot.
func locate(text, message string) int {
	m := quotedName.FindStringSubmatch(message)
	if m == nil {
		return 0
	}
	name := regexp.QuoteMeta(m[1])
	if isWord(m[1][0]) {
		name = `\b` + name
	}
	if isWord(m[1][len(m[1])-1]) {
		name += `\b`
	}
	at, err := regexp.Compile(name)
	if err != nil {
		return 0
	}
	if loc := at.FindStringIndex(text); loc != nil {
		return loc[0]
	}
	return 0
}

// Text returns a policy as it was written, from its first annotation to its semicolon, and the digest of exactly those
// bytes, sha256:<hex>.
func (s *Set) Text(id string) (text, digest string, ok bool) {
	i, ok := s.byID[id]
	if !ok {
		return "", "", false
	}
	return s.policies[i].text, s.policies[i].digest, true
}

// Rule returns the approval rule that a forbid names, and whether it names one.
func (s *Set) Rule(id string) (string, bool) {
	i, ok := s.byID[id]
	if !ok || !s.policies[i].liftable() {
		return "", false
	}
	return s.policies[i].rule, true
}

// IDs returns the ids of all policies, sorted, baseline included.
func (s *Set) IDs() []string {
	ids := make([]string, len(s.policies))
	for i, p := range s.policies {
		ids[i] = p.id
	}
	return ids
}

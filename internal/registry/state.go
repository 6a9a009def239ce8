package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/semver"

	"cardea/internal/policy"
)

// State is everything desired at one moment, cross-checked and indexed. It never changes after Build, so any number of goroutines
// may read it; what it answers must not be written to.
type State struct {
	digest   string
	stored   map[ID]Stored
	objects  map[ID]Object
	ids      []ID // by kind, then name
	policies *policy.Set
	byDigest map[string]*Workflow
	byTitle  map[string][]*Workflow // newest version first
	byKey    map[string]*Person     // by the key's wire form
	members  map[string][]string    // group → persons, sorted
	usedBy   map[string][]string    // connection → processes, sorted
	uses     map[string][]string    // process → connections, sorted

	byProcess  map[string][]*Workflow
	statements map[string]statement // by policy id
	asker      asker

	findings []finding

	granting  sync.Once // guards what follows, which the first plan that needs it computes
	granted   map[ID]*versionGrants
	evaluated int // comparisons that granted took, without those that an earlier state had made
}

// finding is something that does not stop a state but will make an attempt or an approval fail. Plans stop on those of what they
// bring in.
type finding struct {
	about ID
	text  string
}

// BuildError lists what makes resources contradict each other.
type BuildError struct {
	Problems []string
}

func (e *BuildError) Error() string { return strings.Join(e.Problems, "; ") }

// Build decodes, checks and indexes everything that is in force. A stored body that is not what its digest says is refused: whoever
// edits the store shall not be believed.
func Build(stored []Stored) (*State, error) { return build(stored, nil) }

// build takes what has not changed from an earlier state instead of decoding it again.
func build(stored []Stored, before *State) (*State, error) {
	s := &State{
		stored: map[ID]Stored{}, objects: map[ID]Object{}, byDigest: map[string]*Workflow{}, byTitle: map[string][]*Workflow{},
		byKey: map[string]*Person{}, members: map[string][]string{}, usedBy: map[string][]string{},
		uses: map[string][]string{}, byProcess: map[string][]*Workflow{},
	}
	var problems []string
	for _, r := range stored {
		if err := s.add(r, before); err != nil {
			problems = append(problems, err.Error())
		}
	}
	slices.SortFunc(s.ids, CompareIDs)
	s.index()
	problems = append(problems, s.compilePolicies(before)...)
	problems = append(problems, s.check()...)
	if len(problems) > 0 {
		return nil, &BuildError{problems}
	}
	s.digest = s.computeDigest()
	return s, nil
}

func (s *State) add(r Stored, before *State) error {
	id := r.ID()
	if _, twice := s.stored[id]; twice {
		return fmt.Errorf("%s stands twice", id)
	}
	if before != nil && before.stored[id].Digest == r.Digest && r.Digest != "" && string(before.stored[id].Body) == string(r.Body) {
		s.put(r, before.objects[id])
		return nil
	}
	canonical, object, err := NewResource(r.Kind, r.Name, r.Body)
	if err != nil {
		return err
	}
	if canonical.Digest != r.Digest || string(canonical.Body) != string(r.Body) {
		return fmt.Errorf("%s: its body has digest %s and not the %s that was recorded", id, canonical.Digest, r.Digest)
	}
	s.put(r, object)
	return nil
}

func (s *State) put(r Stored, object Object) {
	s.stored[r.ID()], s.objects[r.ID()] = r, object
	s.ids = append(s.ids, r.ID())
}

func (s *State) index() {
	for _, id := range s.ids {
		switch o := s.objects[id].(type) {
		case *Workflow:
			s.byDigest[o.Digest] = o
			s.byTitle[o.Title()] = append(s.byTitle[o.Title()], o)
			s.byProcess[o.Process] = append(s.byProcess[o.Process], o)
			for _, c := range o.Connections {
				s.use(c, o.Process)
			}
		case *Connection:
			if o.Process != "" {
				s.use(o.Name, o.Process)
			}
		case *Person:
			for _, g := range o.Groups {
				s.members[g] = append(s.members[g], o.Name)
			}
			for _, k := range o.keys {
				if s.byKey[string(k.Marshal())] == nil {
					s.byKey[string(k.Marshal())] = o
				}
			}
		}
	}
	for _, versions := range s.byTitle {
		slices.SortFunc(versions, newestFirst)
	}
}

// newestFirst orders versions; build metadata, which semver ignores, is compared as text so that the order is total.
func newestFirst(a, b *Workflow) int {
	if c := semver.Compare("v"+b.Version, "v"+a.Version); c != 0 {
		return c
	}
	return strings.Compare(b.Version, a.Version)
}

func (s *State) use(connection, process string) {
	s.usedBy[connection] = insert(s.usedBy[connection], process)
	s.uses[process] = insert(s.uses[process], connection)
}

// insert keeps a list sorted and each text in it once.
func insert(list []string, text string) []string {
	if i, there := slices.BinarySearch(list, text); !there {
		list = slices.Insert(list, i, text)
	}
	return list
}

func (s *State) compilePolicies(before *State) []string {
	var sources []policy.Source
	same := before != nil
	for _, p := range all[*Policy](s, KindPolicy) {
		sources = append(sources, policy.Source{Name: p.Name + ".cedar", Text: p.Text})
		same = same && before.stored[p.ID()].Digest == s.stored[p.ID()].Digest
	}
	if same && len(sources) == len(all[*Policy](before, KindPolicy)) {
		s.policies, s.statements, s.asker = before.policies, before.statements, before.asker
		return nil
	}
	set, err := policy.Compile(sources)
	if err != nil {
		return strings.Split(err.Error(), "\n")
	}
	s.policies = set
	s.statements = s.readStatements(before)
	s.asker = newAsker(s.statements)
	return nil
}

func (s *State) computeDigest() string {
	h := sha256.New()
	for _, id := range s.ids {
		fmt.Fprintf(h, "%s\x00%s\x00%s\n", id.Kind, id.Name, s.stored[id].Digest)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// kindOrder is the order in which people want to read a plan: who and where before what.
func kindOrder(kind string) int {
	return slices.Index([]string{KindProcess, KindGroup, KindPerson, KindRunner, KindConnection, KindApprovalRule, KindPolicy, KindWorkflow}, kind)
}

// CompareIDs orders ids by kind, as plans list them, then by name.
func CompareIDs(a, b ID) int {
	if c := kindOrder(a.Kind) - kindOrder(b.Kind); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

func find[T Object](s *State, kind, name string) (T, bool) {
	o, ok := s.objects[ID{kind, name}].(T)
	return o, ok
}

func all[T Object](s *State, kind string) []T {
	var out []T
	for _, id := range s.ids {
		if id.Kind == kind {
			out = append(out, s.objects[id].(T))
		}
	}
	return out
}

// Digest names everything in force: two states with one digest are the same, whoever applied them.
func (s *State) Digest() string { return s.digest }

// Warnings are what will make attempts or approvals fail though nothing contradicts.
func (s *State) Warnings() []string {
	var out []string
	for _, f := range s.findings {
		out = append(out, f.text)
	}
	return out
}

// Get gives a resource in force.
func (s *State) Get(id ID) (Stored, bool) {
	r, ok := s.stored[id]
	return r, ok
}

// List gives the resources of a kind by name, or all of them, by kind and name, when kind is empty.
func (s *State) List(kind string) []Stored {
	var out []Stored
	for _, id := range s.ids {
		if kind == "" || id.Kind == kind {
			out = append(out, s.stored[id])
		}
	}
	return out
}

// Process gives a process by name.
func (s *State) Process(name string) (*Process, bool) { return find[*Process](s, KindProcess, name) }

// Connection gives a connection by name.
func (s *State) Connection(name string) (*Connection, bool) {
	return find[*Connection](s, KindConnection, name)
}

// Person gives a person by name.
func (s *State) Person(name string) (*Person, bool) { return find[*Person](s, KindPerson, name) }

// Group gives a group by name.
func (s *State) Group(name string) (*Group, bool) { return find[*Group](s, KindGroup, name) }

// Runner gives what a runner may be given, by the runner's name.
func (s *State) Runner(name string) (*Runner, bool) { return find[*Runner](s, KindRunner, name) }

// Workflow gives one version by its resource name, <process>/<workflow>@<version>.
func (s *State) Workflow(name string) (*Workflow, bool) {
	return find[*Workflow](s, KindWorkflow, name)
}

// WorkflowByDigest gives the definition that a run was started with.
func (s *State) WorkflowByDigest(digest string) (*Workflow, bool) {
	w, ok := s.byDigest[digest]
	return w, ok
}

// Versions gives all versions of <process>/<workflow>, newest first.
func (s *State) Versions(title string) []*Workflow { return s.byTitle[title] }

// Latest gives the newest release of <process>/<workflow>, or the newest pre-release when there is no release.
func (s *State) Latest(title string) (*Workflow, bool) {
	versions := s.byTitle[title]
	for _, w := range versions {
		if semver.Prerelease("v"+w.Version) == "" {
			return w, true
		}
	}
	if len(versions) > 0 {
		return versions[0], true
	}
	return nil, false
}

// AppliedBy names the person who put a resource in force; empty when it is not.
func (s *State) AppliedBy(id ID) string { return s.stored[id].AppliedBy }

// Policies gives the compiled policies, baseline included.
func (s *State) Policies() *policy.Set { return s.policies }

// PersonByKey gives the one person that an SSH key belongs to.
func (s *State) PersonByKey(key ssh.PublicKey) (*Person, bool) {
	p, ok := s.byKey[string(key.Marshal())]
	return p, ok
}

// Keys gives a person's SSH keys, parsed.
func (p *Person) Keys() []ssh.PublicKey { return slices.Clone(p.keys) }

// Members names the persons in a group.
func (s *State) Members(group string) []string { return s.members[group] }

// UsedBy names the processes that a connection was made for or whose workflows name it.
func (s *State) UsedBy(connection string) []string { return s.usedBy[connection] }

// Shared reports whether more than one process uses a connection.
func (s *State) Shared(connection string) bool { return len(s.usedBy[connection]) > 1 }

// Package load reads what people write, folders of resources, workflows and policies, into what a hub is sent.
//
// It runs on the client, before any digest: it fills in the process of a folder, puts schemas and certificates in place of the names
// of their files, and applies Bindings. The bytes it gives are those that the plan shows. Files are whatever the folder's author put
// there, so it reads none outside the folder (symbolic links included), bounds their number and size, and names file, line and
// column of what is wrong. It decides nothing: the authority decodes every resource again.
package load

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"cardea/internal/flow/claims"
	"cardea/internal/flow/source"
	"cardea/internal/registry"
)

// Limits of one load.
const (
	maxFiles = 2000
	maxFile  = 1 << 20
	maxTotal = 32 << 20
)

// Bundle is what the files hold.
type Bundle struct {
	// Resources are canonical, each kind and name once, in the order in which plans list them.
	Resources []registry.Resource
	// Findings say what is wrong, errors first stopping the bundle, and what is doubtful.
	Findings []claims.Finding
	// Files counts what was read.
	Files int
}

// Err is nil when nothing stops the bundle, and otherwise names everything that does, a line each, with its place.
func (b *Bundle) Err() error {
	var list []claims.Finding
	for _, f := range b.Findings {
		if f.Severity == claims.Error {
			list = append(list, f)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return errors.New(strings.TrimSpace(source.Format(list)))
}

// Paths reads folders and single files together. A single file is read in the light of its folder: the folder's Process is its
// process too. The error is of reading; what is wrong inside files is in the bundle's findings.
func Paths(paths ...string) (*Bundle, error) {
	l := &loader{}
	for _, p := range paths {
		if err := l.read(p); err != nil {
			return nil, err
		}
	}
	l.bind()
	l.make()
	return l.bundle(), nil
}

type loader struct {
	files    []*file
	drafts   []*draft
	bindings []*draft
	findings []claims.Finding
	made     []registry.Resource
	total    int64
	count    int
}

// file is one file of a folder.
type file struct {
	folder *folder
	name   string // slash-separated, inside the folder
	shown  string // as people know it
	// context files are read for the process they name, and send nothing.
	context bool
	data    []byte
	docs    []source.RawResource
}

// folder is what one path stands for: nothing outside it is read.
type folder struct {
	dir       string
	processes map[string][]string // directory → names of Process documents in it
}

func (f *folder) open() (*os.Root, error) { return os.OpenRoot(f.dir) }

func (l *loader) read(p string) error {
	info, err := os.Stat(p)
	if err != nil {
		return err
	}
	dir, only := p, ""
	if !info.IsDir() {
		dir, only = filepath.Dir(p), filepath.Base(p)
	}
	f := &folder{dir: dir, processes: map[string][]string{}}
	root, err := f.open()
	if err != nil {
		return err
	}
	defer root.Close()
	if only != "" && !known(only) {
		return fmt.Errorf("read %s: only .yaml, .yml, .json and .cedar files can be applied", p)
	}
	mine, err := l.walk(root, f, only)
	if err != nil {
		return err
	}
	for _, m := range mine {
		l.parse(m)
	}
	for _, m := range mine {
		l.finish(m)
	}
	l.files = append(l.files, mine...)
	return nil
}

// walk opens a folder's files. With only, it opens that one and, for context, those beside it.
func (l *loader) walk(root *os.Root, f *folder, only string) ([]*file, error) {
	var files []*file
	err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		hidden := name != "." && strings.HasPrefix(d.Name(), ".") && name != only
		switch {
		case err != nil:
			return fmt.Errorf("read %s: %w", filepath.Join(f.dir, name), err)
		case d.IsDir() && name != "." && (hidden || only != ""):
			return fs.SkipDir
		case d.IsDir() || hidden || !known(name):
			return nil
		}
		got, err := l.open(root, f, name, only != "" && name != only)
		if got != nil {
			files = append(files, got)
		}
		return err
	})
	return files, err
}

func known(name string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json", ".cedar"}, path.Ext(name))
}

func (l *loader) open(root *os.Root, f *folder, name string, context bool) (*file, error) {
	if l.count++; l.count > maxFiles {
		return nil, fmt.Errorf("read %s: more than %d files", f.dir, maxFiles)
	}
	got := &file{folder: f, name: name, shown: filepath.Join(f.dir, filepath.FromSlash(name)), context: context}
	data, err := read(root, name)
	if err != nil {
		if !context {
			l.fail(got, nil, "", "cannot be read: %v", err)
		}
		return nil, nil
	}
	if l.total += int64(len(data)); l.total > maxTotal {
		return nil, fmt.Errorf("read %s: more than %d MiB", f.dir, maxTotal>>20)
	}
	got.data = data
	return got, nil
}

// read gives one regular file inside the folder. os.Root refuses what leaves it, through symbolic links too.
func read(root *os.Root, name string) ([]byte, error) {
	info, err := root.Stat(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a pipe would wait for ever
		return nil, errors.New("it is not a regular file")
	}
	r, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("it has more than %d KiB", maxFile>>10)
	}
	return data, err
}

// processOf gives the only Process of the nearest directory upward that has any.
func (f *folder) processOf(name string) string {
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		if list := f.processes[dir]; len(list) == 1 {
			return list[0]
		} else if len(list) > 1 || dir == "." {
			return ""
		}
	}
}

// fail reports what is wrong at a JSON pointer of a document, or with a file as a whole when d is nil.
func (l *loader) fail(f *file, d *source.RawResource, pointer, format string, args ...any) {
	finding := claims.Finding{Severity: claims.Error, Rule: "resource", Pointer: pointer, Message: fmt.Sprintf(format, args...), File: f.shown}
	if d != nil {
		at := d.Positions.At(pointer)
		finding.Line, finding.Column = at.Line, at.Column
	}
	l.find(f, finding)
}

func (l *loader) find(f *file, findings ...claims.Finding) {
	if !f.context {
		l.findings = append(l.findings, findings...)
	}
}

func (l *loader) bundle() *Bundle {
	slices.SortStableFunc(l.findings, func(a, b claims.Finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	slices.SortStableFunc(l.made, func(a, b registry.Resource) int { return registry.CompareIDs(a.ID(), b.ID()) })
	b := &Bundle{Findings: l.findings, Resources: l.made}
	for _, f := range l.files {
		if !f.context {
			b.Files++
		}
	}
	return b
}

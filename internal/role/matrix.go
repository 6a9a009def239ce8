package role

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	cardeav1 "cardea/api/cardea/v1"
)

// Cell says of one method and one kind of caller what Admit answers.
type Cell struct {
	Procedure string
	// Caller is a role's name, Runner, or empty for somebody without an SVID.
	Caller  string
	Allowed bool
}

// Callers are all kinds of caller that there are; the empty one has no SVID.
func Callers() []string {
	return []string{"", Authority, Engine, Runner, Console, Origin, Gateway}
}

// Services are all services of the contracts, from the registered descriptors, by name.
func Services() []protoreflect.ServiceDescriptor {
	var list []protoreflect.ServiceDescriptor
	own := cardeav1.File_cardea_v1_options_proto.Package()
	protoregistry.GlobalFiles.RangeFilesByPackage(own, func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			list = append(list, f.Services().Get(i))
		}
		return true
	})
	slices.SortFunc(list, func(a, b protoreflect.ServiceDescriptor) int { return cmp.Compare(a.FullName(), b.FullName()) })
	return list
}

// Matrix lists every method of every service with every kind of caller, so that docs can print it and a test can try each.
// It reads the callers from the descriptors by the words of the contracts (CALLER_ENGINE means "engine"), apart from what Admit does.
func Matrix() []Cell {
	var cells []Cell
	for _, s := range Services() {
		kind, _ := CallerOf(s)
		word := strings.ToLower(strings.TrimPrefix(kind.String(), "CALLER_"))
		for i := range s.Methods().Len() {
			for _, caller := range Callers() {
				allowed := caller != "" && (word == caller || word == "role") || caller == "" && word == "joiner"
				cells = append(cells, Cell{Procedure: procedure(s.Methods().Get(i)), Caller: caller, Allowed: allowed})
			}
		}
	}
	return cells
}

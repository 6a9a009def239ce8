package role

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/identity"
)

// Refusal is one caller that was turned away before its request was read.
type Refusal struct {
	// Listener is the address that it came to.
	Listener string
	// Procedure is empty when the handshake itself was refused.
	Procedure string
	// Peer is who it is; empty unless Proven. What was merely presented is for the log: whoever records refusals by peer would let
	// anybody make a record of any name, and as many as there are names.
	Peer string
	// Proven: the handshake that this request came over has shown an SVID of a role root and its key.
	Proven bool
	Reason identity.Reason
}

// Exhausted is the reason when a bound that many callers share was met, not one of the caller's own.
const Exhausted identity.Reason = "exhausted"

// maxWord bounds what a refusal quotes; the longest procedure is far below.
const maxWord = 256

// clean makes a word of the caller's fit for logs and records.
func clean(s string) string {
	s = strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return -1
	}, s[:min(len(s), maxWord)])
	return strings.ToValidUTF8(s, "")
}

// RefusalFunc records a refusal. It is called on the request's path and must not block for long. An attacker chooses how often.
type RefusalFunc func(Refusal)

// CallerOf is the one kind of caller that a service's descriptor names; false if it names none.
func CallerOf(service protoreflect.ServiceDescriptor) (cardeav1.Caller, bool) {
	opts := service.Options()
	if !proto.HasExtension(opts, cardeav1.E_Caller) {
		return cardeav1.Caller_CALLER_UNSPECIFIED, false
	}
	c, ok := proto.GetExtension(opts, cardeav1.E_Caller).(cardeav1.Caller)
	return c, ok && c != cardeav1.Caller_CALLER_UNSPECIFIED
}

// admits says whether a peer is of the kind. What is not listed is refused, so that a caller kind added to the
// contracts admits nobody until it is added here. A joiner is nobody yet: it has no peer.
func admits(kind cardeav1.Caller, peer identity.Peer, known bool) bool {
	isRole := func(name string) bool { return known && peer.Kind == identity.KindRole && peer.Role == name }
	switch kind {
	case cardeav1.Caller_CALLER_JOINER:
		return !known
	case cardeav1.Caller_CALLER_ROLE:
		return known && (peer.Kind == identity.KindRole || peer.Kind == identity.KindRunner)
	case cardeav1.Caller_CALLER_RUNNER:
		return known && peer.Kind == identity.KindRunner
	case cardeav1.Caller_CALLER_ENGINE:
		return isRole(Engine)
	case cardeav1.Caller_CALLER_CONSOLE:
		return isRole(Console)
	case cardeav1.Caller_CALLER_GATEWAY:
		return isRole(Gateway)
	}
	return false
}

// Admit lets through only the caller that the service's descriptor names, as identity.PeerOf knows it; a service that names none
// admits nobody. Any other gets PermissionDenied before a byte of its request is read, and onRefusal (which may be nil) is told.
// It also refuses paths that are not methods of the service.
func Admit(service protoreflect.ServiceDescriptor, onRefusal RefusalFunc) func(http.Handler) http.Handler {
	kind, _ := CallerOf(service) // one that names none is of the kind that admits nobody
	paths := map[string]bool{}
	for i := range service.Methods().Len() {
		paths[procedure(service.Methods().Get(i))] = true
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !paths[r.URL.Path] {
				refuse(w, r, connect.CodeUnimplemented, errors.New("no such method"))
				return
			}
			peer, known := identity.PeerOf(r.Context())
			if admits(kind, peer, known) {
				next.ServeHTTP(w, r)
				return
			}
			reason := identity.WrongRole
			if !known {
				reason = identity.Missing
			}
			if onRefusal != nil {
				refusal := Refusal{Procedure: r.URL.Path, Proven: known, Reason: reason}
				if known {
					refusal.Peer = peer.ID.String()
				}
				onRefusal(refusal)
			}
			refuse(w, r, connect.CodePermissionDenied, fmt.Errorf("%s is not for this caller", service.Name()))
		})
	}
}

func procedure(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

// refuse answers in the protocol that the caller speaks.
func refuse(w http.ResponseWriter, r *http.Request, code connect.Code, err error) {
	writer := connect.NewErrorWriter()
	if !writer.IsSupported(r) {
		http.Error(w, http.StatusText(http.StatusForbidden), http.StatusForbidden)
		return
	}
	// A failed write means that the caller is gone, who was refused anyway.
	_ = writer.Write(w, r, connect.NewError(code, err))
}

// ServiceByName finds the descriptor of a generated service, such as cardeav1connect.DecideName.
func ServiceByName(name string) (protoreflect.ServiceDescriptor, error) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", name, err)
	}
	s, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is not a service", name)
	}
	return s, nil
}

package console

import (
	"net/http"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/evidence"
)

const (
	unaryType  = "application/proto"
	streamType = "application/connect+proto"
)

// route is what may pass for one procedure.
type route struct {
	// to is the only role that the call is forwarded to.
	to http.RoundTripper
	// evidence is the one header that carries the person's authorisation to that role.
	evidence string
	// contentType is the only one allowed: it says whether the call streams.
	contentType string
	service     string
}

// routes lists every procedure that people may call, from the generated descriptors. A service is here because its contract says
// that the console calls it on a person's behalf; a method whose client streams is not, since no evidence could cover its bytes.
func routes(authority, engine http.RoundTripper) map[string]route {
	table := make(map[string]route)
	for _, file := range []protoreflect.FileDescriptor{cardeav1.File_cardea_v1_control_proto, cardeav1.File_cardea_v1_ledger_proto, cardeav1.File_cardea_v1_runs_proto} {
		services := file.Services()
		for i := range services.Len() {
			service := services.Get(i)
			r := route{service: string(service.Name())}
			switch behalf(service) {
			case cardeav1.OnBehalf_ON_BEHALF_PERSON:
				r.to, r.evidence = authority, evidence.ProofHeader
			case cardeav1.OnBehalf_ON_BEHALF_TICKET:
				r.to, r.evidence = engine, evidence.TicketHeader
			default:
				continue
			}
			addMethods(table, r, service)
		}
	}
	return table
}

func addMethods(table map[string]route, r route, service protoreflect.ServiceDescriptor) {
	methods := service.Methods()
	for i := range methods.Len() {
		m := methods.Get(i)
		if m.IsStreamingClient() {
			continue
		}
		r.contentType = unaryType
		if m.IsStreamingServer() {
			r.contentType = streamType
		}
		table["/"+string(service.FullName())+"/"+string(m.Name())] = r
	}
}

// behalf is the evidence that a service asks for; unspecified unless the console is its caller.
func behalf(service protoreflect.ServiceDescriptor) cardeav1.OnBehalf {
	options := service.Options()
	if proto.GetExtension(options, cardeav1.E_Caller).(cardeav1.Caller) != cardeav1.Caller_CALLER_CONSOLE {
		return cardeav1.OnBehalf_ON_BEHALF_UNSPECIFIED
	}
	return proto.GetExtension(options, cardeav1.E_OnBehalf).(cardeav1.OnBehalf)
}

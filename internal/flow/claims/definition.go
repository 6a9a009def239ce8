package claims

// Definition is a definition whose structure is known to be right. Package flow compiles the expressions and schemas that
// it carries as nodes; the authority needs its Claims alone.
type Definition struct {
	Canonical []byte
	Digest    string
	Document  Document
	Input     Data
	Output    Data
	// Auth is what `use.authentications` maps each name to: the connection.
	Auth map[string]string
	Do   []*Task
	// Claims are complete only with the profile.
	Claims Claims

	secrets []string
}

// Document is the definition's own description.
type Document struct {
	DSL, Namespace, Name, Version, Title, Summary string
	Tags, Metadata                                *Node // nil: none
	Tier                                          string
}

// Data is input, output or export: a schema and a transformation, each nil when absent.
type Data struct {
	Schema *Node // the schema document
	Value  *Node // from or as: a string is an expression, with or without ${ }
}

// Task is one task.
type Task struct {
	Pointer string
	Name    string
	Kind    string // "do", "set" or "http"
	Index   int
	Parent  *Task // nil at the top
	If      *Node // a string; nil: none
	Input   Data
	Output  Data
	Export  Data
	Then    string // continue, exit, end, or the name of a sibling
	Target  int    // the sibling's index when Then is a name, or -1
	Meta    Meta
	Repeats bool
	Do      []*Task
	Set     *Node
	HTTP    *HTTP

	node *Node
}

// Meta is what the metadata says under cardea/v1.
type Meta struct {
	Tier   string
	Effect string
	Uses   []string
	Scopes []string // sorted
	Labels map[string]string
}

// HTTP is the `with` of a `call: http`.
type HTTP struct {
	Method     string
	Origin     string // "" when Endpoint is set
	Path       *URITemplate
	Query      *URITemplate // the endpoint's own query, after the `?`; nil: none
	Endpoint   *Node        // without the profile only: an expression for the whole URL
	QueryMap   *Node        // an object of strings, or an expression; nil: none
	Headers    []Header     // sorted by name
	HeaderMap  *Node        // without the profile only: an expression for all headers
	Body       *Node
	Output     string
	Redirect   bool
	Connection string
	Effect     string
}

// Header is a header with a literal name.
type Header struct {
	Name  string // lower-case
	Value *Node  // a string
}

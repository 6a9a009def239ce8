package role

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"
)

// maxConfig bounds a configuration file.
const maxConfig = 1 << 20

// field is one configurable field of a Config.
type field struct {
	name, help, def string
	value           reflect.Value
}

// env is the environment variable of a field.
func (f field) env() string {
	return "CARDEA_" + strings.ToUpper(strings.ReplaceAll(f.name, "-", "_"))
}

// fields lists a Config's fields in order, embedded structs in place.
func fields(c Config) []field {
	var list []field
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		for i := range v.NumField() {
			t := v.Type().Field(i)
			if t.Anonymous {
				walk(v.Field(i))
				continue
			}
			list = append(list, field{name: t.Tag.Get("flag"), help: t.Tag.Get("help"), def: t.Tag.Get("default"), value: v.Field(i)})
		}
	}
	walk(reflect.ValueOf(c).Elem())
	return list
}

// set parses text into the field.
func (f field) set(text string) error {
	switch p := f.value.Addr().Interface().(type) {
	case *string:
		*p = text
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		*p = n
	case *bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		*p = b
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration such as 10s or 2m", text)
		}
		*p = d
	default:
		return fmt.Errorf("a field of type %s cannot be configured", f.value.Type())
	}
	return nil
}

// Loader gathers a role's configuration from flags, environment and file.
type Loader struct {
	role  string
	conf  Config
	flags *pflag.FlagSet
	file  string
	given map[string]string
	// Print is set by --print-config: the caller should print the configuration and end.
	Print bool
}

// NewLoader adds the flags of conf to flags, with --config and --print-config.
func NewLoader(roleName string, conf Config, flags *pflag.FlagSet) *Loader {
	l := &Loader{role: roleName, conf: conf, flags: flags, given: map[string]string{}}
	for _, f := range fields(conf) {
		flag := flags.VarPF(&flagValue{f: f, given: l.given}, f.name, "", f.help+" ("+f.env()+")")
		flag.DefValue = f.def
		if f.value.Kind() == reflect.Bool {
			flag.NoOptDefVal = "true"
		}
	}
	flags.StringVar(&l.file, "config", "", "YAML file with any of these settings")
	flags.BoolVar(&l.Print, "print-config", false, "print the configuration as YAML, with where each setting comes from, and end")
	return l
}

// flagValue remembers what the command line says; Load decides what wins.
type flagValue struct {
	f     field
	given map[string]string
}

func (v *flagValue) String() string {
	if v.given == nil { // pflag asks a zero value
		return ""
	}
	return v.given[v.f.name]
}

func (v *flagValue) Type() string { return v.f.value.Kind().String() }

func (v *flagValue) Set(text string) error {
	probe := field{value: reflect.New(v.f.value.Type()).Elem()}
	if err := probe.set(text); err != nil {
		return err
	}
	v.given[v.f.name] = text
	return nil
}

// Load gathers the configuration and validates it. Its errors say which flag or line is wrong, one to a line.
func (l *Loader) Load(lookupEnv func(string) (string, bool)) error {
	if err := l.Read(lookupEnv); err != nil {
		return err
	}
	return l.conf.Validate()
}

// Read gathers the configuration without judging it: flags, then environment, then file, then defaults.
func (l *Loader) Read(lookupEnv func(string) (string, bool)) error {
	file, err := readConfigFile(l.file)
	if err != nil {
		return err
	}
	run := ""
	for _, f := range fields(l.conf) {
		text, from := l.pick(f, file, lookupEnv)
		delete(file, f.name)
		if from == "" {
			text = strings.NewReplacer("${run}", run, "${role}", l.instance()).Replace(f.def)
			if text == "" && f.value.Kind() != reflect.String {
				continue
			}
		}
		if err := f.set(text); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		if f.name == "run" {
			run = text
		}
		if f.name == "name" && text == "" {
			if err := f.set(l.role); err != nil {
				return err
			}
		}
	}
	for name := range file {
		return fmt.Errorf("%s: unknown key %q", l.file, name)
	}
	return nil
}

// instance is what tells this process's admin socket from that of its siblings: only runners have any.
func (l *Loader) instance() string {
	if name := l.conf.common().Name; l.role == Runner && name != "" {
		return Runner + "-" + name
	}
	return l.role
}

// pick is a field's text and where it comes from; nowhere if the default holds.
func (l *Loader) pick(f field, file map[string]string, lookupEnv func(string) (string, bool)) (text, from string) {
	if text, ok := l.given[f.name]; ok {
		return text, "--" + f.name
	}
	if text, ok := lookupEnv(f.env()); ok {
		return text, f.env()
	}
	if text, ok := file[f.name]; ok {
		return text, l.file + ": " + f.name
	}
	return "", ""
}

// readConfigFile reads a flat YAML mapping of scalars.
func readConfigFile(path string) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("--config: read %s: %w", path, err)
	}
	if len(text) > maxConfig {
		return nil, fmt.Errorf("--config: %s is larger than %d bytes", path, maxConfig)
	}
	settings, err := parseConfig(text)
	if err != nil {
		return nil, fmt.Errorf("--config: %s: %w", path, err)
	}
	return settings, nil
}

func parseConfig(text []byte) (map[string]string, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	settings := map[string]string{}
	if len(doc.Content) == 0 {
		return settings, nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, errors.New("should be a mapping of settings")
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if key.Kind != yaml.ScalarNode || value.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("line %d: a setting is a name and one plain value", key.Line)
		}
		if _, twice := settings[key.Value]; twice {
			return nil, fmt.Errorf("line %d: %q is set twice", key.Line, key.Value)
		}
		settings[key.Value] = value.Value
	}
	return settings, nil
}

// PrintConfig writes the configuration as a YAML file that --config reads, each setting with its meaning and source.
// There is no secret in it: secrets never come through configuration.
func (l *Loader) PrintConfig(w io.Writer, lookupEnv func(string) (string, bool)) error {
	file, err := readConfigFile(l.file)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, f := range fields(l.conf) {
		_, from := l.pick(f, file, lookupEnv)
		if from == "" {
			from = "default"
		}
		text, err := yaml.Marshal(map[string]any{f.name: f.plain()})
		if err != nil {
			return fmt.Errorf("print --%s: %w", f.name, err)
		}
		fmt.Fprintf(&b, "# %s (%s)\n%s\n", f.help, from, text)
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// plain is the field's value as YAML should show it.
func (f field) plain() any {
	if d, ok := f.value.Interface().(time.Duration); ok {
		return d.String()
	}
	return f.value.Interface()
}

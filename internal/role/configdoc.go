package role

import (
	"fmt"
	"strings"
)

// Reference is docs/config.md: every setting of every role. A test keeps the file equal to it.
func Reference() string {
	var b strings.Builder
	b.WriteString("# Configuration\n\n" +
		"Each role is one process: `cardea authority`, `cardea engine` … `cardea dev` starts them all and configures them itself.\n\n" +
		"A setting has one name everywhere: the flag `--log-level`, the environment variable `CARDEA_LOG_LEVEL`, and `log-level` in the\n" +
		"YAML file that `--config` names. A flag wins over the environment, that over the file, that over the default. An unknown\n" +
		"key in the file is an error. `--print-config` shows what holds and where it comes from, as a file that `--config` reads.\n" +
		"In defaults, `${run}` is the value of `--run`, and `${role}` the role (for a runner, `runner-` and its name).\n" +
		"No secret ever comes through configuration.\n\n" +
		"An address is `unix:/path`, `tcp:host:port`, or for listeners `fd:number`, one that was bound before the role started.\n")
	for _, r := range []struct {
		name string
		conf Config
	}{
		{Authority, &AuthorityConfig{}}, {Engine, &EngineConfig{}}, {Runner, &RunnerConfig{}}, {Console, &ConsoleConfig{}}, {Origin, &OriginConfig{}},
	} {
		fmt.Fprintf(&b, "\n## %s\n\n| setting | default | meaning |\n|---|---|---|\n", r.name)
		for _, f := range fields(r.conf) {
			def := ""
			if f.def != "" {
				def = "`" + f.def + "`"
			}
			if f.name == "name" {
				def = "`" + r.name + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.name, def, f.help)
		}
	}
	return b.String()
}

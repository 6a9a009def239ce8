package expr

// rule is how a built-in function is metered: what its input and its arguments pass through first. An empty name passes
// the value on.
type rule struct {
	in  string
	out string // the metering function takes the built-in's place
	arg []string
}

// cheap is the allow-list, by name and arity: functions whose cost the meter can state from the sizes of their operands,
// and whose result is the same on every machine. Transcendental functions are not among them: their last bit depends on
// the processor.
var cheap = map[string]rule{
	// One level of the input.
	"not/0": {}, "type/0": {}, "empty/0": {}, "error/0": {}, "error/1": {}, "values/0": {}, "nulls/0": {}, "booleans/0": {},
	"numbers/0": {}, "strings/0": {}, "arrays/0": {}, "objects/0": {}, "iterables/0": {}, "scalars/0": {}, "finites/0": {}, "normals/0": {},
	"length/0": {in: fnFlat}, "utf8bytelength/0": {}, "keys/0": {in: fnFlat}, "has/1": {arg: []string{""}}, "in/1": {arg: []string{""}},
	"map/1": {in: fnFlat, arg: []string{""}}, "map_values/1": {in: fnFlat, arg: []string{""}}, "select/1": {arg: []string{""}},
	"to_entries/0": {in: fnFlat}, "from_entries/0": {in: fnWide}, "with_entries/1": {in: fnWide, arg: []string{fnWide}},
	"first/0": {}, "last/0": {}, "first/1": {arg: []string{""}}, "last/1": {arg: []string{""}}, "isempty/1": {arg: []string{""}},
	"all/0": {in: fnFlat}, "any/0": {in: fnFlat}, "all/1": {in: fnFlat, arg: []string{""}}, "any/1": {in: fnFlat, arg: []string{""}},
	"all/2": {arg: []string{"", ""}}, "any/2": {arg: []string{"", ""}}, "reverse/0": {in: fnFlat}, "nth/1": {arg: []string{fnIndex}},
	"abs/0": {}, "toarray/0": {}, "tojson/0": {in: fnWide}, "fromjson/0": {out: fnFromJSON}, "tostring/0": {in: fnWide},
	"tonumber/0": {in: fnDigits}, "toboolean/0": {},
	// Numbers whose result IEEE 754 fixes.
	"floor/0": {}, "ceil/0": {}, "round/0": {}, "trunc/0": {}, "rint/0": {}, "nearbyint/0": {}, "sqrt/0": {}, "fabs/0": {},
	"fmin/2": {arg: []string{"", ""}}, "fmax/2": {arg: []string{"", ""}}, "infinite/0": {}, "nan/0": {}, "isinfinite/0": {}, "isnan/0": {},
	"isfinite/0": {}, "isnormal/0": {},
	// Strings.
	"startswith/1": {arg: []string{fnFlat}}, "endswith/1": {arg: []string{fnFlat}}, "ltrimstr/1": {arg: []string{fnFlat}}, "rtrimstr/1": {arg: []string{fnFlat}},
	"trimstr/1": {arg: []string{fnFlat}}, "trim/0": {in: fnFlat}, "ltrim/0": {in: fnFlat}, "rtrim/0": {in: fnFlat},
	"ascii_downcase/0": {in: fnWide}, "ascii_upcase/0": {in: fnWide}, "explode/0": {in: fnWide}, "implode/0": {in: fnWide},
	"split/1": {in: fnWide, arg: []string{fnFlat}}, "join/1": {in: fnWide, arg: []string{fnSep}},
	// All of the input.
	"add/0": {in: fnWide}, "add/1": {arg: []string{fnWide}}, "flatten/0": {in: fnWide}, "flatten/1": {in: fnWide, arg: []string{""}},
	"min/0": {in: fnDeep}, "max/0": {in: fnDeep}, "sort/0": {in: fnWide}, "unique/0": {in: fnWide},
	"min_by/1": {in: fnFlat, arg: []string{fnDeep}}, "max_by/1": {in: fnFlat, arg: []string{fnDeep}}, "sort_by/1": {in: fnFlat, arg: []string{fnWide}},
	"group_by/1": {in: fnFlat, arg: []string{fnWide}}, "unique_by/1": {in: fnFlat, arg: []string{fnWide}}, "bsearch/1": {in: fnDeep, arg: []string{fnDeep}},
	"contains/1": {in: fnSmall, arg: []string{fnSmall}}, "inside/1": {in: fnSmall, arg: []string{fnSmall}}, "index/1": {in: fnSmall, arg: []string{fnSmall}},
	"rindex/1": {in: fnSmall, arg: []string{fnSmall}}, "indices/1": {in: fnSmall, arg: []string{fnSmall}},
	"IN/1": {in: fnDeep, arg: []string{fnDeep}}, "recurse/0": {in: fnDeep}, "walk/1": {in: fnWide, arg: []string{""}},
	"paths/0": {in: fnWide}, "paths/1": {in: fnWide, arg: []string{""}}, "path/1": {arg: []string{""}}, "getpath/1": {in: "", arg: []string{fnPath}},
	"setpath/2": {in: fnDeep, arg: []string{fnPath, ""}}, "delpaths/1": {in: fnDeep, arg: []string{fnDeep}}, "del/1": {in: fnDeep, arg: []string{""}},
	// Times. strftime and strptime are admitted with a plain literal format only.
	"now/0": {out: fnNow}, "todate/0": {}, "fromdate/0": {}, "todateiso8601/0": {}, "fromdateiso8601/0": {in: fnSep}, "gmtime/0": {}, "mktime/0": {},
	"strftime/1": {arg: []string{""}}, "strptime/1": {in: fnSep, arg: []string{""}},
}

// ambient names what depends on more than the Scope, or leaves it. It is refused for ever.
var ambient = map[string]string{
	"env": "the environment", "$ENV": "the environment", "input": "an input stream", "inputs": "an input stream",
	"input_filename": "an input stream", "input_line_number": "an input stream", "debug": "standard error", "stderr": "standard error",
	"halt": "the process", "halt_error": "the process", "localtime": "the machine's time zone", "strflocaltime": "the machine's time zone",
	"modulemeta": "modules", "get_search_list": "modules", "builtins": "the interpreter", "$__loc__": "the source", "$__prog_args": "the command line",
}

// scopeVars are the variables that every expression has, in the order in which Eval passes them.
var scopeVars = []string{"$context", "$input", "$output", "$task", "$workflow", "$runtime", "$authorization"}

package condition

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
)

// environment is made when the first condition comes: it takes a millisecond
// and memory that a node without conditions does not pay for.
var environment = sync.OnceValue(func() *cel.Env {
	registry, err := types.NewRegistry()
	if err != nil {
		panic(err)
	}
	env, err := cel.NewCustomEnv(
		cel.StdLib(),
		cel.CustomTypeAdapter(registry),
		cel.CustomTypeProvider(provider{registry}),
		cel.Variable("req", requestType),
		cel.Variable("client", clientType),
		cel.Variable("backend", backendType),
		cel.Function("healthy", cel.MemberOverload("backend_healthy", []*cel.Type{backendType, cel.StringType}, cel.BoolType,
			cel.BinaryBinding(healthy))),
		cel.Function("lowerAscii", cel.MemberOverload("string_lower_ascii", []*cel.Type{cel.StringType}, cel.StringType,
			cel.UnaryBinding(func(s ref.Val) ref.Val { return lowerASCII(s.(types.String)) }))),
		cel.Function("trim", cel.MemberOverload("string_trim", []*cel.Type{cel.StringType}, cel.StringType,
			cel.UnaryBinding(func(s ref.Val) ref.Val { return types.String(strings.TrimSpace(string(s.(types.String)))) }))),
		cel.Function("split", cel.MemberOverload("string_split_string", []*cel.Type{cel.StringType, cel.StringType}, cel.ListType(cel.StringType),
			cel.BinaryBinding(func(s, by ref.Val) ref.Val {
				return types.NewStringList(types.DefaultTypeAdapter, strings.Split(string(s.(types.String)), string(by.(types.String))))
			}))),
		cel.ParserExpressionSizeLimit(maxLength),
		cel.ParserRecursionLimit(maxNesting),
		cel.ExpressionNodeLimit(maxNodes),
		cel.DefaultUTCTimeZone(true),
	)
	if err != nil {
		panic(err)
	}
	return env
})

func lowerASCII(s types.String) types.String {
	return types.String(strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, string(s)))
}

// byLength is the cost of a function that looks at all of its string.
func byLength(args []ref.Val, _ ref.Val) *uint64 {
	s, _ := args[0].(types.String)
	n := uint64(len(s))/10 + 1
	return &n
}

// split's list is dearer than its string: each element is one.
func byPieces(args []ref.Val, result ref.Val) *uint64 {
	n := *byLength(args, result)
	if list, ok := result.(interface{ Size() ref.Val }); ok {
		if size, ok := list.Size().(types.Int); ok {
			n += uint64(size)
		}
	}
	return &n
}

// bySteps is the cost of matches. CEL's own goes by the length of the pattern, which
// says little: a{1000} has a thousand instructions.
func (c *checker) bySteps(args []ref.Val, _ ref.Val) *uint64 {
	s, _ := args[0].(types.String)
	pattern, _ := args[1].(types.String)
	n := steps(len(s), c.sizes[string(pattern)])
	return &n
}

// steps is the cost of looking for a pattern in so many bytes.
func steps(length, instructions int) uint64 { return uint64(length)*uint64(instructions)/100 + 1 }

// bounded has matches compile its pattern once, and look for nothing where that alone
// is more than a computation may cost, as CEL counts only what is done.
func bounded(overload string) *interpreter.RegexOptimization {
	return &interpreter.RegexOptimization{
		Function: overloads.Matches, OverloadID: overload, RegexIndex: 1,
		Factory: func(call interpreter.InterpretableCall, pattern string) (interpreter.InterpretableCall, error) {
			re, err := regexp.Compile(pattern)
			if err != nil {
				return nil, err
			}
			size, err := types.RegexProgramSize(pattern)
			if err != nil {
				return nil, err
			}
			return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(args ...ref.Val) ref.Val {
				s, ok := args[0].(types.String)
				switch {
				case !ok:
					return types.NoSuchOverloadErr()
				case steps(len(s), size) > CostLimit:
					return types.WrapErr(ErrCost)
				}
				return types.Bool(re.MatchString(string(s)))
			}), nil
		},
	}
}

// checks is held for a check: the first that finds an error makes a catalog of all names in the
// environment's checker, which another with a comprehension may just be copying (cel-go 0.33.2,
// checker.Env.Catalog and cloneWithDecls).
var checks sync.Mutex

// compile says all that is wrong with an expression, or returns its program.
func compile(text string) (cel.Program, Errors) {
	whole := func(format string, args ...any) Errors { return Errors{{1, 1, fmt.Sprintf(format, args...)}} }
	switch {
	case len(text) > maxLength:
		return nil, whole("the condition is %d bytes long, want at most %d", len(text), maxLength)
	case !utf8.ValidString(text):
		return nil, whole("the condition holds invalid UTF-8")
	}
	env := environment()
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return nil, explain(issues, nil)
	}
	c := checker{tree: parsed.NativeRep(), sizes: map[string]int{}}
	c.check()
	checks.Lock()
	checked, issues := env.Check(parsed)
	checks.Unlock()
	errs := append(explain(issues, c.tree), c.errs...)
	if len(errs) == 0 && checked.OutputType() != cel.BoolType {
		errs = whole("the condition is of type %s, want bool", checked.OutputType())
	}
	if len(errs) > 0 {
		slices.SortStableFunc(errs, func(a, b *Error) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column)) })
		return nil, errs
	}
	program, err := env.Program(checked,
		cel.EvalOptions(cel.OptOptimize, cel.OptTrackCost),
		cel.CostLimit(CostLimit),
		cel.OptimizeRegex(bounded(overloads.Matches), bounded(overloads.MatchesString)),
		cel.CostTrackerOptions(
			cost.OverloadTracker(overloads.Matches, c.bySteps),
			cost.OverloadTracker(overloads.MatchesString, c.bySteps),
			cost.OverloadTracker("string_lower_ascii", byLength),
			cost.OverloadTracker("string_trim", byLength),
			cost.OverloadTracker("string_split_string", byPieces),
		))
	if err != nil {
		return nil, whole("%v", err)
	}
	return program, nil
}

// checker finds what CEL itself lets pass.
type checker struct {
	tree         *ast.AST
	errs         Errors
	instructions int
	sizes        map[string]int // instructions by pattern
}

func (c *checker) fail(id int64, format string, args ...any) {
	at := c.tree.SourceInfo().GetStartLocation(id)
	c.errs = append(c.errs, &Error{max(at.Line(), 1), max(at.Column()+1, 1), fmt.Sprintf(format, args...)})
}

func (c *checker) check() {
	var walk func(e, parent ast.NavigableExpr)
	walk = func(e, parent ast.NavigableExpr) {
		switch e.Kind() {
		case ast.IdentKind:
			c.variable(e, parent)
		case ast.SelectKind:
			s := e.AsSelect()
			c.table(e, parent)
			if isTable(s.Operand(), "header") {
				c.lowerCase(e.ID(), s.FieldName())
			}
		case ast.CallKind:
			c.call(e)
		}
		for _, child := range e.Children() {
			walk(child, e)
		}
	}
	walk(ast.NavigateAST(c.tree), nil)
}

// variable wants a variable only before a dot.
func (c *checker) variable(e, parent ast.NavigableExpr) {
	name := e.AsIdent()
	if _, ok := members[name]; !ok {
		return
	}
	if parent != nil && (parent.Kind() == ast.SelectKind || parent.Kind() == ast.CallKind && parent.AsCall().IsMemberFunction() && parent.AsCall().Target().ID() == e.ID()) {
		return
	}
	c.fail(e.ID(), "%s is no value by itself, want %s", name, fieldsOf(name))
}

// fieldsOf says what there is of a variable.
func fieldsOf(name string) string {
	if name == "backend" {
		return "backend.healthy(name)"
	}
	var all []string
	for _, m := range members[name] {
		all = append(all, name+"."+m.name)
	}
	return anyOf(all)
}

func anyOf(all []string) string {
	if len(all) == 1 {
		return all[0]
	}
	return strings.Join(all[:len(all)-1], ", ") + " or " + all[len(all)-1]
}

// isTable says whether e is one of the maps; "" is any of them.
func isTable(e ast.Expr, which string) bool {
	if e.Kind() != ast.SelectKind {
		return false
	}
	s := e.AsSelect()
	if s.Operand().Kind() != ast.IdentKind || s.Operand().AsIdent() != "req" || s.IsTestOnly() {
		return false
	}
	switch name := s.FieldName(); name {
	case "header", "query", "cookie":
		return which == "" || which == name
	}
	return false
}

// table wants a map only where something is taken from it.
func (c *checker) table(e, parent ast.NavigableExpr) {
	if !isTable(e, "") {
		return
	}
	if parent != nil {
		switch parent.Kind() {
		case ast.SelectKind:
			return
		case ast.ComprehensionKind:
			if parent.AsComprehension().IterRange().ID() == e.ID() {
				return
			}
		case ast.CallKind:
			call := parent.AsCall()
			args := call.Args()
			switch call.FunctionName() {
			case operators.Index:
				if args[0].ID() == e.ID() {
					return
				}
			case operators.In:
				if args[1].ID() == e.ID() {
					return
				}
			case overloads.Size:
				return
			}
		}
	}
	name := "req." + e.AsSelect().FieldName()
	c.fail(e.ID(), "%s is a map, want one of its values, %s['name']", name, name)
}

// lowerCase wants the name of a header as the map has it: another is always
// absent.
func (c *checker) lowerCase(id int64, name string) {
	if lower := string(lowerASCII(types.String(name))); lower != name {
		c.fail(id, "header names are in lower case, want %s for %s", quote(lower), quote(name))
	}
}

func (c *checker) call(e ast.NavigableExpr) {
	call := e.AsCall()
	args := call.Args()
	literal := func(e ast.Expr) (string, bool) {
		if e.Kind() != ast.LiteralKind {
			return "", false
		}
		s, ok := e.AsLiteral().(types.String)
		return string(s), ok
	}
	switch name := call.FunctionName(); {
	case name == operators.Index && len(args) == 2 && isTable(args[0], "header"):
		if s, ok := literal(args[1]); ok {
			c.lowerCase(args[1].ID(), s)
		}
	case name == operators.In && len(args) == 2 && isTable(args[1], "header"):
		if s, ok := literal(args[0]); ok {
			c.lowerCase(args[0].ID(), s)
		}
	case name == overloads.Matches && len(args) > 0:
		pattern := args[len(args)-1]
		s, ok := literal(pattern)
		if !ok {
			if pattern.Kind() != ast.LiteralKind { // a literal of another type is the type check's
				c.fail(pattern.ID(), "matches takes its regular expression as a literal string, which is compiled once")
			}
			return
		}
		if _, err := regexp.Compile(s); err != nil {
			c.fail(pattern.ID(), "%s is no regular expression (RE2): %v", quote(s), err)
			return
		}
		n, err := types.RegexProgramSize(s)
		c.sizes[s] = n
		before := c.instructions
		if c.instructions += n; err != nil || before <= maxInstructions && c.instructions > maxInstructions {
			c.fail(pattern.ID(), "the regular expressions compile to %d instructions, want at most %d", c.instructions, maxInstructions)
		}
	}
}

var (
	undeclared = regexp.MustCompile(`^undeclared reference to '(.*?)'(?: \(in container '.*'\))?$`)
	undefined  = regexp.MustCompile(`^undefined field '(.*)'$`)
	mistyped   = regexp.MustCompile(`^expected type '(.*)' but found '(.*)'$`)
	overload   = regexp.MustCompile(`^found no matching overload for '(.*)' applied to '(.*)'$`)
)

// explain puts CEL's errors in the words of this program. tree is nil for those
// of the parser.
func explain(issues *cel.Issues, tree *ast.AST) Errors {
	var errs Errors
	for _, e := range issues.Errors() {
		msg := e.Message
		if m := undeclared.FindStringSubmatch(msg); m != nil {
			msg = fmt.Sprintf("%s is not known, want %s, client.ip, backend.healthy(name) or a function of CEL", clip(strings.TrimPrefix(m[1], ".")), fieldsOf("req"))
		} else if m := undefined.FindStringSubmatch(msg); m != nil {
			msg = fmt.Sprintf("there is no field %s", clip(m[1]))
			if name := operandOf(tree, e.ExprID); name != "" {
				msg = fmt.Sprintf("%s has no field %s, want %s", name, clip(m[1]), fieldsOf(name))
			}
		} else if m := overload.FindStringSubmatch(msg); m != nil {
			name := m[1]
			if op, ok := operators.FindReverse(name); ok {
				name = op
			}
			if name == "" {
				name = strings.Trim(m[1], "_")
			}
			msg = fmt.Sprintf("%s does not go with %s", name, clip(m[2]))
			if name == "healthy" {
				msg = "backend.healthy takes a name, a string"
			}
		} else if m := mistyped.FindStringSubmatch(msg); m != nil {
			msg = fmt.Sprintf("it is of type %s, want %s", clip(m[2]), m[1])
		} else if rest, ok := strings.CutPrefix(msg, "Syntax error: "); ok {
			rest, _, _ = strings.Cut(rest, " expecting {") // every token there is
			msg = "not CEL: " + clip(strings.ReplaceAll(rest, "'<EOF>'", "the end"))
			if strings.Contains(rest, "~'") { // VCL's and nginx's operator
				msg += "; a regular expression is text.matches('...')"
			}
		}
		// What has no place in it, such as a limit, is at its beginning.
		errs = append(errs, &Error{max(e.Location.Line(), 1), max(e.Location.Column()+1, 1), msg})
	}
	return errs
}

// operandOf is the variable of which a field is selected; "" for none.
func operandOf(tree *ast.AST, id int64) string {
	name := ""
	if tree != nil {
		ast.PostOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
			if e.ID() == id && e.Kind() == ast.SelectKind {
				if o := e.AsSelect().Operand(); o.Kind() == ast.IdentKind {
					if _, ok := members[o.AsIdent()]; ok {
						name = o.AsIdent()
					}
				}
			}
		}))
	}
	return name
}

const maxQuoted = 200

// clip shortens what a message shows.
func clip(s string) string {
	if len(s) <= maxQuoted {
		return s
	}
	n := maxQuoted
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}

func quote(s string) string { return fmt.Sprintf("%q", clip(s)) }

package condition

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"weak"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"
)

const (
	// CostLimit is the most that one computation may cost, in CEL's units: about
	// one for an operation, for ten bytes that are looked at, and for a hundred steps
	// of a regular expression, which are bytes times instructions.
	CostLimit = 50_000

	// What is looked at in the request's maps, in bytes, is counted beside CEL's own
	// cost, for which a map is one thing however much has to be read for it.
	maxLooked = 10 * CostLimit
	entryCost = 16 // of a name in a map, besides its bytes

	maxLength       = 4096   // bytes of an expression
	maxNodes        = 10_000 // of its tree, macros expanded
	maxNesting      = 100
	maxInstructions = 20_000 // of all regular expressions; each is 40 bytes
)

// Condition is a compiled expression. It never changes.
type Condition struct {
	text    string
	program cel.Program
}

// String is the expression.
func (c *Condition) String() string { return c.text }

// Equal says whether two conditions have the same expression.
func (c *Condition) Equal(other *Condition) bool {
	return c == other || c != nil && other != nil && c.text == other.text
}

// Error is one fault of an expression.
type Error struct {
	Line, Column int // of its beginning, from 1; columns are characters
	Msg          string
}

func (e *Error) Error() string {
	if e.Line == 1 {
		return fmt.Sprintf("column %d: %s", e.Column, e.Msg)
	}
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Msg)
}

// Errors are all faults of an expression, in their order in it.
type Errors []*Error

func (e Errors) Error() string {
	all := make([]string, len(e))
	for i, err := range e {
		all[i] = err.Error()
	}
	return strings.Join(all, "; ")
}

// known are the conditions in use, so that a thousand routes with one expression
// cost the time and memory of one.
var known = struct {
	sync.Mutex
	byText map[string]weak.Pointer[Condition]
}{byText: map[string]weak.Pointer[Condition]{}}

// Compile compiles an expression. Its error is of type Errors.
func Compile(text string) (*Condition, error) {
	if c := find(text); c != nil {
		return c, nil
	}
	program, errs := compile(text)
	if errs != nil {
		return nil, errs
	}
	known.Lock()
	defer known.Unlock()
	if c := known.byText[text].Value(); c != nil {
		return c, nil
	}
	c := &Condition{text, program}
	known.byText[text] = weak.Make(c)
	runtime.AddCleanup(c, forget, text)
	return c, nil
}

func find(text string) *Condition {
	known.Lock()
	defer known.Unlock()
	return known.byText[text].Value()
}

func forget(text string) {
	known.Lock()
	defer known.Unlock()
	if known.byText[text].Value() == nil {
		delete(known.byText, text)
	}
}

var (
	// ErrCost says that a computation came to CostLimit.
	ErrCost = fmt.Errorf("it costs more than %d", CostLimit)

	errNotCompiled = errors.New("it is not compiled")
)

// Eval computes the condition. Where that fails (an index out of range, a number
// that is none, ErrCost), there is no result. A nil Condition fails. in is used by one
// computation at a time.
func (c *Condition) Eval(in *Input) (bool, error) {
	if c == nil {
		return false, errNotCompiled
	}
	in.looked = 0
	out, _, err := c.program.Eval((*activation)(in))
	if in.looked > maxLooked { // then out is of a part of the maps
		return false, ErrCost
	}
	if err != nil {
		var cancelled interpreter.EvalCancelledError
		if errors.As(err, &cancelled) && cancelled.Cause == interpreter.CostLimitExceeded {
			return false, ErrCost
		}
		return false, err
	}
	holds, ok := out.(types.Bool)
	if !ok {
		return false, fmt.Errorf("its result is of type %s", out.Type().TypeName())
	}
	return bool(holds), nil
}

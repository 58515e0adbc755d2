package condition

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"roster/message"
)

// Input is what a condition is computed from. Nothing of the request is kept or changed.
type Input struct {
	Request     *message.Request
	Host        []byte // in lower case, without port
	Path, Query []byte // the path normalised; the query as it is, without "?"
	Client      netip.Addr
	Health      Health // nil: nothing is healthy

	looked int // bytes of the maps that the computation has looked at
}

// Health knows backends and directors by name.
type Health interface {
	// Healthy says whether new requests may be sent there; false for a name
	// that nobody defines.
	Healthy(name string) bool
}

// activation is an Input as CEL's evaluation asks it for variables.
type activation Input

func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "req", "client", "backend":
		return object{a}, true
	}
	return nil, false
}

func (*activation) Parent() cel.Activation { return nil }

// The types of the variables. They are not to be had as values: see checker.
var (
	requestType = types.NewObjectType("req")
	clientType  = types.NewObjectType("client")
	backendType = types.NewObjectType("backend")
	stringMap   = types.NewMapType(types.StringType, types.StringType)
)

// member is one field of a variable.
type member struct {
	name string
	typ  *types.Type
	get  func(*activation) ref.Val
}

// members are the variables' fields, in the order that errors show them in.
var members = map[string][]member{
	"req": {
		{"method", types.StringType, func(a *activation) ref.Val { return types.String(a.Request.Method) }},
		{"host", types.StringType, func(a *activation) ref.Val { return types.String(a.Host) }},
		{"path", types.StringType, func(a *activation) ref.Val { return types.String(a.Path) }},
		{"query", stringMap, func(a *activation) ref.Val { return table{a, queryTable} }},
		{"url", types.StringType, func(a *activation) ref.Val { return types.String(a.Request.Target) }},
		{"proto", types.StringType, func(a *activation) ref.Val { return proto(a.Request) }},
		{"header", stringMap, func(a *activation) ref.Val { return table{a, headerTable} }},
		{"cookie", stringMap, func(a *activation) ref.Val { return table{a, cookieTable} }},
	},
	"client": {
		{"ip", types.StringType, func(a *activation) ref.Val {
			if !a.Client.IsValid() {
				return types.String("")
			}
			return types.String(a.Client.String())
		}},
	},
	"backend": nil,
}

// proto is the version as the access log has it.
func proto(r *message.Request) types.String {
	switch {
	case r.Major >= 2:
		return "HTTP/2.0"
	case r.Minor == 0:
		return "HTTP/1.0"
	}
	return "HTTP/1.1"
}

// provider tells CEL of the variables' fields, and of nothing else.
type provider struct{ types.Provider }

func (p provider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := members[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Provider.FindStructType(name)
}

func (p provider) FindStructFieldNames(name string) ([]string, bool) {
	fields, ok := members[name]
	if !ok {
		return p.Provider.FindStructFieldNames(name)
	}
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	return names, true
}

func (p provider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	fields, ok := members[name]
	if !ok {
		return p.Provider.FindStructFieldType(name, field)
	}
	for _, f := range fields {
		if f.name == field {
			return &types.FieldType{
				Type:    f.typ,
				IsSet:   func(any) bool { return true },
				GetFrom: func(obj any) (any, error) { return f.get(obj.(*activation)), nil },
			}, true
		}
	}
	return nil, false
}

// value has what CEL wants of every value and expressions never come to.
type value struct{ name string }

func (v value) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("%s is no %v", v.name, t)
}
func (v value) ConvertToType(ref.Type) ref.Val { return types.NewErr("%s is not converted", v.name) }
func (v value) Equal(ref.Val) ref.Val          { return types.NewErr("%s is not compared", v.name) }

// object is a variable.
type object struct{ a *activation }

func (object) ConvertToNative(t reflect.Type) (any, error) {
	return value{"a variable"}.ConvertToNative(t)
}
func (object) ConvertToType(t ref.Type) ref.Val { return value{"a variable"}.ConvertToType(t) }
func (object) Equal(v ref.Val) ref.Val          { return value{"a variable"}.Equal(v) }
func (object) Type() ref.Type                   { return backendType }
func (o object) Value() any                     { return o.a }

// healthy is backend.healthy.
func healthy(backend, name ref.Val) ref.Val {
	h := backend.(object).a.Health
	return types.Bool(h != nil && h.Healthy(string(name.(types.String))))
}

// tableKind is one of the maps.
type tableKind uint8

const (
	headerTable tableKind = iota
	queryTable
	cookieTable
)

// table is a map over the bytes of a request: nothing is read of it but what is
// asked for. It is no traits.Mapper, as then what is absent would be an error.
type table struct {
	a    *activation
	kind tableKind
}

func (table) ConvertToNative(t reflect.Type) (any, error) { return value{"a map"}.ConvertToNative(t) }
func (table) ConvertToType(t ref.Type) ref.Val            { return value{"a map"}.ConvertToType(t) }
func (table) Equal(v ref.Val) ref.Val                     { return value{"a map"}.Equal(v) }
func (table) Type() ref.Type                              { return stringMap }
func (t table) Value() any                                { return t }

// Get returns the values of a name, joined; "" where it is absent.
func (t table) Get(key ref.Val) ref.Val {
	name, ok := key.(types.String)
	if !ok {
		return badKey()
	}
	joined, _ := t.lookup(string(name))
	return joined
}

// IsSet is for has.
func (t table) IsSet(key ref.Val) ref.Val { return t.Contains(key) }

// Contains is for in.
func (t table) Contains(key ref.Val) ref.Val {
	name, ok := key.(types.String)
	if !ok {
		return badKey()
	}
	_, found := t.lookup(string(name))
	return types.Bool(found)
}

// badKey is what a name of type dyn may come to, which the type check lets pass. CEL
// writes into the error where it is from, so it is a new one each time.
func badKey() ref.Val { return types.NewErr("the name in a map is no string") }

var hostName = []byte("host")

// Size is how many names there are.
func (t table) Size() ref.Val { return types.Int(len(t.names())) }

// Iterator goes through the names, each once, in the order of the request.
func (t table) Iterator() traits.Iterator {
	names := t.names()
	list := make([]ref.Val, len(names))
	for i, name := range names {
		list[i] = types.String(name)
	}
	return types.NewRefValList(types.DefaultTypeAdapter, list).Iterator()
}

func (t table) names() []string {
	var names []string
	seen := map[string]bool{}
	t.each(func(name, _ []byte) {
		s := t.name(name)
		if !seen[s] {
			seen[s] = true
			names = append(names, s)
		}
	})
	return names
}

func (t table) lookup(key string) (joined types.String, found bool) {
	var first []byte
	var more *strings.Builder
	t.each(func(name, value []byte) {
		switch {
		case !t.is(name, key):
			return
		case !found:
			first, found = value, true
		default:
			if more == nil {
				more = new(strings.Builder)
				more.WriteString(t.value(first))
			}
			more.WriteString(", ")
			more.WriteString(t.value(value))
		}
		t.a.looked += len(value)
	})
	switch {
	case more != nil:
		return types.String(more.String()), true
	case found:
		return types.String(t.value(first)), true
	}
	return "", false
}

// each calls f with the names and values as they are written, as long as the
// computation may look at more. Host is the one that requests are routed by and backends
// get, wherever it was written: HTTP/2 has a pseudo field for it, and HTTP/1 an absolute
// target, which is obeyed and not the field (RFC 9112 3.2.2).
func (t table) each(f func(name, value []byte)) {
	may := func(n int) bool {
		t.a.looked += n + entryCost
		return t.a.looked <= maxLooked
	}
	switch t.kind {
	case headerTable:
		fields, host := t.a.Request.Fields, t.a.Request.Authority
		if len(host) > 0 {
			f(hostName, host)
		}
		for i := range fields {
			if !may(len(fields[i].Name)) {
				return
			}
			if fields[i].ID != message.Host || len(host) == 0 {
				f(fields[i].Name, fields[i].Value)
			}
		}
	case queryTable:
		for rest := t.a.Query; len(rest) > 0; {
			var one []byte
			one, rest, _ = bytes.Cut(rest, []byte{'&'})
			if !may(len(one)) {
				return
			}
			if len(one) > 0 {
				name, value, _ := bytes.Cut(one, []byte{'='})
				f(name, value)
			}
		}
	case cookieTable: // RFC 6265 4.2.1, and nothing that is decoded
		fields := t.a.Request.Fields
		for i := range fields {
			if fields[i].ID != message.Cookie {
				continue
			}
			for rest := fields[i].Value; len(rest) > 0; {
				var one []byte
				one, rest, _ = bytes.Cut(rest, []byte{';'})
				if !may(len(one)) {
					return
				}
				if name, value, ok := bytes.Cut(bytes.Trim(one, " \t"), []byte{'='}); ok {
					f(name, value)
				}
			}
		}
	}
}

// name is a name as expressions have it.
func (t table) name(b []byte) string {
	switch t.kind {
	case headerTable:
		return string(message.Lower(bytes.Clone(b)))
	case queryTable:
		return unescape(b)
	}
	return string(b)
}

// is says whether a name, as written, is one of an expression.
func (t table) is(b []byte, name string) bool {
	switch {
	case t.kind == headerTable:
		return len(b) == len(name) && equalFold(b, name)
	case t.kind == queryTable && bytes.ContainsAny(b, "%+"):
		return unescape(b) == name
	}
	return string(b) == name
}

func (t table) value(b []byte) string {
	if t.kind == queryTable {
		return unescape(b)
	}
	return string(b)
}

// equalFold compares a field's name with one in lower case, as long.
func equalFold(name []byte, lower string) bool {
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// unescape decodes a part of a query: "+" is a space, and what is no valid
// encoding stays as it is.
func unescape(b []byte) string {
	if !bytes.ContainsAny(b, "%+") {
		return string(b)
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '+':
			out = append(out, ' ')
		case c == '%' && i+2 < len(b) && digit(b[i+1]) >= 0 && digit(b[i+2]) >= 0:
			out = append(out, byte(digit(b[i+1])<<4|digit(b[i+2])))
			i += 2
		default:
			out = append(out, c)
		}
	}
	return string(out)
}

func digit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

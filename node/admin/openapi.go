package admin

import (
	"encoding"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	"roster/store"
)

// object is a JSON object of the description.
type object = map[string]any

// either is a body of one type or another.
type either []any

// openAPI answers with the description of the API in OpenAPI 3.1, made from the routes
// that serve it.
func (s *Server) openAPI(w http.ResponseWriter, r *http.Request) {
	if known(w, r) {
		answer(w, http.StatusOK, describe(s.routes(), s.Node.Status().Version))
	}
}

func describe(routes []route, version string) object {
	d := describer{object{}}
	paths := object{}
	for _, r := range routes {
		at, _ := paths[r.path].(object)
		if at == nil {
			at = object{}
			paths[r.path] = at
		}
		at[strings.ToLower(r.method)] = d.operation(r)
	}
	if version == "" {
		version = "development"
	}
	return object{
		"openapi": "3.1.0",
		"info": object{
			"title":   "Admin API of a roster node",
			"version": version,
			"description": "Lists come in pages. A definition's revision is its ETag; If-Match with it writes only if nobody has changed the definition since. " +
				"X-Roster-Revision of an answer to a write is what X-Min-Revision of a request to a node waits for, with --min-revision-wait.",
		},
		"paths": paths,
		"components": object{
			"schemas":         d.schemas,
			"securitySchemes": object{"token": object{"type": "http", "scheme": "bearer"}},
		},
		"security": []object{{"token": []string{}}, {}}, // on loopback none is needed
	}
}

// describer collects the schemas that are referred to.
type describer struct{ schemas object }

func (d describer) operation(r route) object {
	id := strings.ToLower(r.method)
	for _, part := range strings.FieldsFunc(strings.ReplaceAll(r.path, "{", "by."), func(c rune) bool { return strings.ContainsRune("/}.", c) }) {
		id += strings.ToUpper(part[:1]) + part[1:]
	}
	if strings.HasSuffix(r.path, "/") {
		id += "Index"
	}
	var parameters []object
	for i, part := range strings.Split(r.path, "{") {
		if name, _, ok := strings.Cut(part, "}"); ok && i > 0 {
			parameters = append(parameters, object{"name": name, "in": "path", "required": true, "schema": object{"type": "string"},
				"description": "Slashes in it are written as they are."})
		}
	}
	for _, p := range r.query {
		parameters = append(parameters, object{"name": p.name, "in": "query", "description": p.about, "schema": d.schema(reflect.TypeOf(p.is))})
	}
	for _, p := range r.header {
		parameters = append(parameters, object{"name": p.name, "in": "header", "description": p.about, "schema": d.schema(reflect.TypeOf(p.is))})
	}
	answers := object{}
	for _, a := range r.answers {
		about := a.about
		if about == "" {
			about = http.StatusText(a.status)
		}
		answers[fmt.Sprint(a.status)] = object{"description": about, "content": d.content(a)}
	}
	op := object{"operationId": id, "summary": r.summary, "responses": answers}
	if parameters != nil {
		op["parameters"] = parameters
	}
	if r.body != nil {
		op["requestBody"] = object{"required": true, "content": d.content(*r.body)}
	}
	if r.open {
		op["security"] = []object{}
	}
	return op
}

func (d describer) content(c content) object {
	media := c.media
	if media == "" {
		media = "application/json"
	}
	switch is := c.is.(type) {
	case nil:
		return object{media: object{"schema": object{"type": "string"}}}
	case store.Kind:
		body := object{media: object{"schema": d.definition(is)}}
		if is == store.HealthKind {
			body["text/plain"] = object{"schema": object{"type": "string"}}
		}
		return body
	case either:
		var any []object
		for _, one := range is {
			any = append(any, d.schema(reflect.TypeOf(one)))
		}
		return object{media: object{"schema": object{"anyOf": any}}}
	default:
		return object{media: object{"schema": d.schema(reflect.TypeOf(is))}}
	}
}

// definition refers to the schema of a kind's definitions.
func (d describer) definition(kind store.Kind) object {
	name := kind.Singular() + "Definition"
	d.schemas[name] = json.RawMessage(store.JSONSchema(kind))
	return object{"$ref": "#/components/schemas/" + name}
}

var (
	timeType = reflect.TypeFor[time.Time]()
	rawType  = reflect.TypeFor[json.RawMessage]()
	textType = reflect.TypeFor[encoding.TextMarshaler]()
)

// schema describes what encoding/json makes of a type.
func (d describer) schema(t reflect.Type) object {
	switch {
	case t.Kind() == reflect.Pointer:
		return object{"anyOf": []object{d.schema(t.Elem()), {"type": "null"}}}
	case t == timeType:
		return object{"type": "string", "format": "date-time"}
	case t == rawType:
		return object{} // a definition of some kind, or text in place of it
	case t.Implements(textType):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice:
		return object{"type": "array", "items": d.schema(t.Elem())}
	case reflect.Map:
		if t.Elem().Kind() == reflect.Interface {
			return object{"type": "object"}
		}
		return object{"type": "object", "additionalProperties": d.schema(t.Elem())}
	case reflect.Struct:
		return d.structure(t)
	}
	panic("admin: no schema of " + t.String())
}

// structure refers to the schema of a struct. Fields that are always there are required.
func (d describer) structure(t reflect.Type) object {
	name := t.Name()
	if of, element, ok := strings.Cut(name, "["); ok { // List[roster/node/admin.Backend]
		name = of + element[strings.LastIndexByte(element, '.')+1:len(element)-1]
	}
	if pkg := t.PkgPath(); pkg != reflect.TypeFor[Server]().PkgPath() {
		name = pkg[strings.LastIndexByte(pkg, '/')+1:] + name
	}
	ref := object{"$ref": "#/components/schemas/" + name}
	if d.schemas[name] != nil {
		return ref
	}
	properties := object{}
	d.schemas[name] = object{}
	required := []string{}
	var add func(t reflect.Type)
	add = func(t reflect.Type) {
		for i := range t.NumField() {
			f := t.Field(i)
			tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			switch {
			case f.Anonymous && tag == "":
				add(f.Type)
			case !f.IsExported() || tag == "-":
			default:
				if tag == "" {
					tag = f.Name
				}
				properties[tag] = d.schema(f.Type)
				if !strings.Contains(options, "omit") {
					required = append(required, tag)
				}
			}
		}
	}
	add(t)
	d.schemas[name] = object{"type": "object", "properties": properties, "required": required}
	return ref
}

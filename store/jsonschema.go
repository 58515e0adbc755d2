package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// JSONSchema describes the values of a kind, for editors and for those who write
// clients: a schema in the dialect of JSON Schema 2020-12, indented. Without a kind it
// describes the file that roster apply reads.
//
// Whatever Decode takes, the schema takes. The schema takes more: what a host, a regular
// expression or a certificate is, and some of what fields have to do with each other,
// only Decode knows. An override of health is an object or, as in files, a string; its
// key in etcd has the string without quotes.
func JSONSchema(kind Kind) []byte {
	var root *shape
	if kind == "" {
		root = &shape{Title: "Definitions of roster", Type: "object", Closed: true}
		for _, k := range Kinds() {
			names := &shape{Type: []string{"object", "null"}, Description: "By name.", Names: nameShape(), Values: shapeOf(k)}
			root.Properties = append(root.Properties, property{string(k), names})
		}
	} else {
		root = shapeOf(kind)
		root.Title = kind.Singular()
	}
	root.Dialect = "https://json-schema.org/draft/2020-12/schema"
	b, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic("store: " + err.Error()) // plain structs
	}
	return append(b, '\n')
}

func shapeOf(kind Kind) *shape {
	switch kind {
	case Backends:
		return backendFields.shape()
	case Probes:
		return probeFields.shape()
	case Directors:
		return directorFields.shape()
	case Routes:
		return routeFields.shape()
	case Certificates:
		return certificateFields.shape()
	case HealthKind:
		return &shape{Any: []*shape{stateShape(), healthFields.shape()}}
	}
	panic(fmt.Sprintf("store: no kind %q", kind))
}

// shape is a JSON Schema, as far as definitions need one.
type shape struct {
	Dialect     string `json:"$schema,omitempty"`
	Title       string `json:"title,omitempty"`
	Description string `json:"description,omitempty"`
	Type        any    `json:"type,omitempty"` // a name or several
	Enum        any    `json:"enum,omitempty"`
	Const       any    `json:"const,omitempty"`
	Default     any    `json:"default,omitempty"`
	WriteOnly   bool   `json:"writeOnly,omitempty"`

	MinLength int    `json:"minLength,omitempty"`
	MaxLength int    `json:"maxLength,omitempty"`
	Pattern   string `json:"pattern,omitempty"`
	Encoding  string `json:"contentEncoding,omitempty"`

	Minimum *float64 `json:"minimum,omitempty"`
	Maximum *float64 `json:"maximum,omitempty"`

	Items    *shape `json:"items,omitempty"`
	MinItems int    `json:"minItems,omitempty"`
	MaxItems int    `json:"maxItems,omitempty"`

	Properties properties `json:"properties,omitempty"`
	Names      *shape     `json:"propertyNames,omitempty"`
	Values     *shape     `json:"-"` // of properties that are not listed
	Closed     bool       `json:"-"` // there are no others
	Others     any        `json:"additionalProperties,omitempty"`
	MinNames   int        `json:"minProperties,omitempty"`
	Required   []string   `json:"required,omitempty"`

	Any []*shape `json:"anyOf,omitempty"`
	All []*shape `json:"allOf,omitempty"`
	Not *shape   `json:"not,omitempty"`
}

// MarshalJSON writes additionalProperties as it is meant.
func (s *shape) MarshalJSON() ([]byte, error) {
	type plain shape
	p := plain(*s)
	switch {
	case s.Values != nil:
		p.Others = s.Values
	case s.Closed:
		p.Others = false
	}
	return json.Marshal(&p)
}

// properties are in the order of the documentation.
type properties []property

type property struct {
	name string
	is   *shape
}

// MarshalJSON writes an object.
func (p properties) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	for i, one := range p {
		b.WriteByte("{,"[min(i, 1)])
		is, err := json.Marshal(one.is)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", one.name, is)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// or gives a shape a default, if there is one.
func (s *shape) or(value any, there bool) *shape {
	if there {
		s.Default = value
	}
	return s
}

// shape is the schema of a whole object.
func (s *schema[T]) shape() *shape {
	out := &shape{Type: "object", Closed: true, Description: abouts[s.what][""]}
	for _, f := range s.fields {
		is := f.shape()
		is.Description = abouts[s.what][f.name]
		out.Properties = append(out.Properties, property{f.name, is})
	}
	if rule := rules[s.what]; rule != nil {
		rule(out)
	}
	return out
}

// rules are what fields have to do with each other, as far as it is worth an editor's
// while.
var rules = map[string]func(*shape){
	"a backend": func(s *shape) {
		s.Any = []*shape{{Required: []string{"host"}}, {Required: []string{"path"}}, with("none", &shape{Const: true})}
		s.All = []*shape{not("host", "path"), not("port", "path"), not("via", "path")}
	},
	"a probe":       func(s *shape) { s.All = []*shape{not("url", "request")} },
	"a director":    func(s *shape) { s.Required = []string{"type"} },
	"a member":      func(s *shape) { s.Required = []string{"name"} },
	"a certificate": func(s *shape) { s.Required = []string{"cert", "key"} },
	"a route": func(s *shape) {
		s.Any = []*shape{{Required: []string{"backend"}}, {Required: []string{"respond"}}}
		s.All = []*shape{not("backend", "respond")}
		for _, name := range forwarding {
			s.All = append(s.All, not("respond", name))
		}
	},
	"a health override": func(s *shape) { s.Required = []string{"state"} },
}

// with is an object that has a field of a shape.
func with(name string, is *shape) *shape {
	return &shape{Properties: properties{{name, is}}, Required: []string{name}}
}

// not is an object that does not have all of these.
func not(names ...string) *shape { return &shape{Not: &shape{Required: names}} }

func textShape() *shape { return &shape{Type: "string"} }
func someText() *shape  { return &shape{Type: "string", MinLength: 1} }
func flagShape() *shape { return &shape{Type: "boolean"} }

func choiceShape[S ~string](options ...S) *shape { return &shape{Enum: options} }

func integerShape(lo, hi int) *shape {
	s := numberShape(float64(lo), float64(hi))
	s.Type = "integer"
	return s
}

func numberShape(lo, hi float64) *shape { return &shape{Type: "number", Minimum: &lo, Maximum: &hi} }

// durationShape is what ParseDuration takes, or a plain 0 where that is allowed.
func durationShape(lo time.Duration) *shape {
	var names []string
	for _, u := range units {
		names = append(names, u.name)
	}
	text := &shape{Type: "string", Pattern: `^(([0-9]+\.?[0-9]*|\.[0-9]+)(` + strings.Join(names, "|") + `))+$`}
	if lo > 0 {
		text.All = []*shape{{Pattern: "[1-9]"}}
		return text
	}
	return &shape{Any: []*shape{text, {Enum: []any{0, "0"}}}}
}

func nameShape() *shape {
	const segment = `[A-Za-z][A-Za-z0-9_.-]*`
	return &shape{Type: "string", Pattern: "^" + segment + "(/" + segment + ")*$", MaxLength: MaxName}
}

func portShape() *shape {
	var names []string
	for _, s := range services {
		names = append(names, s.name)
	}
	return &shape{Any: []*shape{integerShape(1, 65535), {Enum: names}}}
}

func pathShape() *shape   { return &shape{Type: "string", Pattern: "^/"} }
func socketShape() *shape { return &shape{Type: "string", Pattern: "^(/|@).", MaxLength: 108} }
func base64Shape() *shape { return &shape{Type: "string", Encoding: "base64"} }
func secretShape() *shape { return &shape{Type: "string", MinLength: 1, WriteOnly: true} }

func listOrNone(of *shape, most int) *shape {
	return &shape{Type: "array", Items: of, MaxItems: most}
}

func listShape(of *shape, most int) *shape {
	s := listOrNone(of, most)
	s.MinItems = 1
	return s
}

func oneOrMore(of *shape, most int) *shape {
	return &shape{Any: []*shape{of, listShape(of, most)}}
}

// labelsShape is an object of strings.
func labelsShape() *shape {
	return &shape{Type: "object", Names: &shape{MinLength: 1}, Values: textShape()}
}

func selectShape() *shape {
	s := labelsShape()
	s.MinNames = 1
	return s
}

// valuesShape is an object of names that have a value each, or several.
func valuesShape() *shape {
	return &shape{Type: "object", Values: oneOrMore(textShape(), maxList)}
}

func probeRefShape() *shape { return &shape{Any: []*shape{nameShape(), probeFields.shape()}} }

func membersShape() *shape {
	return &shape{Type: "array", Items: &shape{Any: []*shape{nameShape(), memberFields.shape()}}}
}

func byShape() *shape {
	return &shape{Type: "string", Pattern: `^(url|path|host|client\.ip|(header|cookie):.+)$`}
}

// stateShape is a state in any case, with white space around it.
func stateShape() *shape {
	return &shape{Type: "string", Description: "healthy, sick, auto or drain, in any case.",
		Pattern: `^\s*([Hh][Ee][Aa][Ll][Tt][Hh][Yy]|[Ss][Ii][Cc][Kk]|[Aa][Uu][Tt][Oo]|[Dd][Rr][Aa][Ii][Nn])\s*$`}
}

// abouts say what fields are for, by the schema's name and the field's; "" is the object
// as a whole.
var abouts = map[string]map[string]string{
	"a backend": {
		"":                      "One address that serves. Exactly one of host, path and none is given.",
		"host":                  "Numeric address or domain name, also with a port: \"10.0.0.7\", \"[::1]:8080\", \"example.com:http\".",
		"port":                  "A number or a service's name; 80 by default, 443 with tls.",
		"path":                  "Unix-domain socket: an absolute path, or @name for an abstract one.",
		"none":                  "true: the backend that always fails.",
		"host_header":           "Host for requests and probes that have none; by default the host, with the port where it is not the scheme's.",
		"override_host":         "host_header replaces the client's Host.",
		"connect_timeout":       "How long opening a connection may take, all addresses tried together; 0 is no limit.",
		"first_byte_timeout":    "From the request sent to the first byte of the answer; 0 is no limit.",
		"between_bytes_timeout": "Longest pause in an answer, and of each write to the backend; 0 is no limit.",
		"tunnel_timeout":        "Longest silence of an upgraded connection; 0 is no limit.",
		"idle_timeout":          "How long an unused connection is kept; 0 is no limit.",
		"max_connections":       "Requests in progress, per node; 0 is no limit.",
		"wait_limit":            "Requests that may queue for a slot; none unless wait_timeout is given, too.",
		"wait_timeout":          "How long a request may queue.",
		"proxy_header":          "Version of the PROXY protocol with the client's address; none by default.",
		"preamble":              "Bytes in base64 that are sent first on every new connection.",
		"via":                   "Name of a backend to connect to instead, with a PROXY v2 header that has this one's address.",
		"authority":             "Sent as an authority TLV with via; \"\" sends none.",
		"pool":                  "Only backends with the same one share connections.",
		"reuse":                 "false: a connection serves one request.",
		"tls":                   "TLS to the backend; {} for the defaults.",
		"protocol":              "What is spoken: h2 needs tls, h2c goes without.",
		"probe":                 "A probe's name, a probe, or \"none\"; by default the probe named default, if there is one.",
		"labels":                "For a director's select.",
		"comment":               "Free text.",
	},
	"tls": {
		"":                     "How a backend is spoken to over TLS.",
		"server_name":          "Sent and verified; by default the host.",
		"ca":                   "Certificates in PEM that the backend's is verified with; by default the system's.",
		"certificate":          "Name of the certificate that is shown to the backend.",
		"insecure_skip_verify": "Take any certificate.",
		"alpn":                 "Protocols that are offered.",
	},
	"a probe": {
		"":                  "A check of a backend's health, and how it is judged.",
		"type":              "http asks for url, grpc is grpc.health.v1, tcp only connects.",
		"port":              "Another port of the same host.",
		"url":               "Path to GET.",
		"request":           "Lines that are sent instead, each followed by CRLF.",
		"expected_response": "Status of a good answer.",
		"expect_close":      "Good only if the backend closes the connection in time.",
		"service":           "Of type grpc; \"\" is the server as a whole.",
		"timeout":           "Of the whole probe.",
		"interval":          "From the end of a probe to the start of the next.",
		"window":            "How many of the last probes are judged.",
		"threshold":         "How many of the window have to be good; at most window.",
		"initial":           "How many good ones are assumed at the start; by default one below the threshold.",
	},
	"a director": {
		"":             "A named set of backends with a policy.",
		"type":         "How it chooses.",
		"backends":     "Members in order: names of backends or directors.",
		"select":       "Adds every backend with these labels.",
		"sticky":       "Of fallback: stays with the member it has come to.",
		"by":           "Of hash and shard: url, path, host, client.ip, header:NAME or cookie:NAME; by default url.",
		"replicas":     "Of shard: points on the ring for each member, times its weight.",
		"warmup":       "Of shard: share of requests for the next alternative.",
		"rampup":       "Of shard: how long a member that became healthy takes to its whole share.",
		"healthy":      "Of shard: how sick members count.",
		"slow_start":   "How long a member that became healthy takes to its whole share.",
		"cookie":       "Keeps a client on a member.",
		"outlier":      "Ejects members that fail requests.",
		"panic":        "Share of healthy members below which all are used; 0 is off.",
		"retry_budget": "Share of requests that may be retries.",
	},
	"a member": {
		"":       "One place in a director.",
		"name":   "Of a backend or a director.",
		"weight": "0 is never chosen; 1 or more in a shard director.",
		"rampup": "Of shard: instead of the director's.",
	},
	"a cookie": {
		"":     "The cookie that keeps a client on a member.",
		"name": "Its name.",
		"ttl":  "How long browsers keep it; 0 is until they end.",
		"path": "Its path.",
	},
	"an outlier": {
		"":             "When a member is ejected.",
		"consecutive":  "After so many failures one after the other.",
		"ejection":     "How long, the first time.",
		"max_ejection": "How long at most.",
		"max_share":    "Share of the members that may be ejected at once.",
	},
	"a route": {
		"":                      "Sends the requests it matches to a backend or director, or answers itself. Exactly one of backend and respond is given.",
		"match":                 "What a request has to be: all of the fields, and of each field any.",
		"when":                  "A condition in CEL.",
		"on_error":              "What becomes of a request for which when cannot be computed.",
		"priority":              "Routes with a higher one are tried first.",
		"backend":               "Name of a backend or director.",
		"respond":               "An answer without a backend.",
		"request_headers":       "Changes to the request's header fields.",
		"response_headers":      "Changes to the answer's header fields.",
		"strip_prefix":          "Taken from the path that the backend gets.",
		"rewrite_host":          "Host that the backend gets.",
		"retries":               "How many other members are tried, for requests that are safe to repeat.",
		"timeout":               "Of the whole request; 0 is no limit.",
		"connect_timeout":       "In place of the backend's.",
		"first_byte_timeout":    "In place of the backend's.",
		"between_bytes_timeout": "In place of the backend's.",
	},
	"match": {
		"":           "What a request has to be.",
		"host":       "A host, or *. and a domain for all below it.",
		"path":       "A path, or one with /* at its end for all below it.",
		"path_regex": "A regular expression (RE2) of the path.",
		"method":     "A method, case-sensitive.",
		"header":     "Header fields and the values wanted of them; * is any.",
		"query":      "Parameters and the values wanted of them; * is any.",
		"client":     "An address or CIDR that the client is in.",
	},
	"respond": {
		"":        "An answer.",
		"status":  "Its status.",
		"headers": "Its header fields.",
		"body":    "Its body.",
	},
	"request_headers": {
		"":       "Changes to the request: first remove, then set, then add.",
		"set":    "Fields that replace those of their names.",
		"add":    "Fields that are added.",
		"remove": "Names of fields that are taken out.",
	},
	"response_headers": {
		"":       "Changes to the answer: first remove, then set, then add.",
		"set":    "Fields that replace those of their names.",
		"add":    "Fields that are added.",
		"remove": "Names of fields that are taken out.",
	},
	"a certificate": {
		"":      "A certificate with its key, for listeners by SNI and for TLS to backends by name.",
		"cert":  "The certificate in PEM, then those that lead to its CA.",
		"key":   "Its private key in PEM, without a password. Never shown.",
		"hosts": "Names that it is for; by default those in it.",
	},
	"a health override": {
		"":       "An operator's word on a backend or director.",
		"state":  "healthy, sick, auto or drain, in any case.",
		"reason": "Why; shown by status.",
		"by":     "Who said so.",
	},
}

package store

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// DirectorType is how a director chooses.
type DirectorType string

// The types of directors.
const (
	RoundRobin       DirectorType = "round_robin"
	Fallback         DirectorType = "fallback"
	Random           DirectorType = "random"
	Hash             DirectorType = "hash"
	Shard            DirectorType = "shard"
	LeastConnections DirectorType = "least_connections"
	P2C              DirectorType = "p2c" // power of two choices
)

// ShardHealthy is how a Shard counts sick members, in Varnish's words.
type ShardHealthy string

// What Varnish calls healthy=CHOSEN, IGNORE and ALL.
const (
	HealthyChosen ShardHealthy = "chosen"
	HealthyIgnore ShardHealthy = "ignore"
	HealthyAll    ShardHealthy = "all"
)

// Director is a named set of backends with a policy. What is of other types
// than Type is zero.
type Director struct {
	Type    DirectorType
	Members []Member // in order; a name may be there twice
	Select  Labels   // adds the backends that have all of these; nil = none

	Sticky bool // of Fallback

	// Of Hash and Shard: "url", "path", "host", "client.ip", "header:<name in
	// lower case>" or "cookie:<name>".
	By string

	// Of Shard.
	Replicas int           // points per member and weight; 67
	Warmup   float64       // share for the next alternative, 0 to 1
	Rampup   time.Duration // 0 = none
	Healthy  ShardHealthy

	// Of RoundRobin, Random, LeastConnections and P2C; 0 = none.
	SlowStart time.Duration

	Cookie      *Cookie  // nil = off
	Outlier     *Outlier // nil = off
	Panic       float64  // share of healthy members below which all are used; 0 = off
	RetryBudget float64  // share of requests that may be retries; 0.2
}

// Member is one place in a director.
type Member struct {
	Name   string        // of a backend or director
	Weight float64       // 0 = never chosen
	Rampup time.Duration // of Shard: the director's, if the member has none of its own
}

// Cookie keeps a client on a member.
type Cookie struct {
	Name string
	TTL  time.Duration // 0 = until the browser ends
	Path string
}

// Outlier ejects members that fail requests.
type Outlier struct {
	Consecutive int           // failures that eject
	Ejection    time.Duration // the first time
	MaxEjection time.Duration // at least Ejection
	MaxShare    float64       // of members ejected at once, 0 to 1
}

// Kind is Directors.
func (*Director) Kind() Kind { return Directors }

const (
	maxWeight   = 1_000_000
	maxReplicas = 10_000
	// maxPoints bounds the ring of a shard director over the members it
	// lists: 32 MiB. The default of 67 replicas has room for 60,000 members.
	maxPoints = 4_000_000
)

var directorFields = newSchema("a director",
	field[Director]{name: "type", // required
		read: choice("type", func(v *Director) *DirectorType { return &v.Type }, "",
			RoundRobin, Fallback, Random, Hash, Shard, LeastConnections, P2C).read,
		write: func(e *encoder, v *Director) {
			e.field("type")
			e.text(string(v.Type))
		}, shape: func() *shape {
			return choiceShape(RoundRobin, Fallback, Random, Hash, Shard, LeastConnections, P2C)
		}},
	field[Director]{name: "backends", read: readMembers, write: writeMembers, shape: membersShape},
	labels("select", func(v *Director) *Labels { return &v.Select }).as(selectShape),
	flag("sticky", func(v *Director) *bool { return &v.Sticky }, false),
	field[Director]{name: "by", read: readBy,
		write: func(e *encoder, v *Director) {
			if v.By != v.defaultBy() {
				e.field("by")
				e.text(v.By)
			}
		}, shape: byShape},
	field[Director]{name: "replicas",
		read: func(d *decoder, v *Director) {
			if n, ok := d.integer(1, maxReplicas); ok {
				v.Replicas = n
			}
		},
		write: func(e *encoder, v *Director) {
			if v.Type == Shard && v.Replicas != defaultReplicas {
				e.field("replicas")
				e.integer(v.Replicas)
			}
		}, shape: func() *shape { return integerShape(1, maxReplicas).or(defaultReplicas, true) }},
	number("warmup", func(v *Director) *float64 { return &v.Warmup }, 0, 0, 1),
	duration("rampup", func(v *Director) *time.Duration { return &v.Rampup }, 0, 0),
	field[Director]{name: "healthy",
		read: choice("healthy", func(v *Director) *ShardHealthy { return &v.Healthy }, "",
			HealthyChosen, HealthyIgnore, HealthyAll).read,
		write: func(e *encoder, v *Director) {
			if v.Type == Shard && v.Healthy != HealthyChosen {
				e.field("healthy")
				e.text(string(v.Healthy))
			}
		}, shape: func() *shape {
			return choiceShape(HealthyChosen, HealthyIgnore, HealthyAll).or(HealthyChosen, true)
		}},
	duration("slow_start", func(v *Director) *time.Duration { return &v.SlowStart }, 0, 0),
	object("cookie", func(v *Director) **Cookie { return &v.Cookie }, cookieFields, nil),
	object("outlier", func(v *Director) **Outlier { return &v.Outlier }, outlierFields, finishOutlier),
	number("panic", func(v *Director) *float64 { return &v.Panic }, 0, 0, 1),
	number("retry_budget", func(v *Director) *float64 { return &v.RetryBudget }, 0.2, 0, 1),
)

// defaultReplicas is Varnish's.
const defaultReplicas = 67

var memberFields = newSchema("a member",
	text("name", func(m *Member) *string { return &m.Name }, "", ValidateName).as(nameShape),
	number("weight", func(m *Member) *float64 { return &m.Weight }, 1, 0, maxWeight),
	field[Member]{name: "rampup", init: func(m *Member) { m.Rampup = Inherit },
		read: func(d *decoder, m *Member) {
			if t, ok := d.duration(0); ok {
				m.Rampup = t
			}
		},
		write: func(e *encoder, m *Member) {
			if m.Rampup != Inherit {
				e.field("rampup")
				e.duration(m.Rampup)
			}
		}, shape: func() *shape { return durationShape(0) }},
)

var cookieFields = newSchema("a cookie",
	text("name", func(c *Cookie) *string { return &c.Name }, "roster", func(s string) error {
		if !isToken(s) {
			return fmt.Errorf("is %s, want a cookie's name: letters, digits and !#$%%&'*+-.^_`|~", quote(s))
		}
		return nil
	}),
	duration("ttl", func(c *Cookie) *time.Duration { return &c.TTL }, 0, 0),
	text("path", func(c *Cookie) *string { return &c.Path }, "/", func(s string) error {
		if err := checkTarget(s); err != nil {
			return err
		}
		if strings.IndexByte(s, ';') >= 0 {
			return fmt.Errorf("is %s, want no \";\" in it", quote(s))
		}
		return nil
	}),
)

var outlierFields = newSchema("an outlier",
	integer("consecutive", func(o *Outlier) *int { return &o.Consecutive }, 5, 1, maxCount),
	duration("ejection", func(o *Outlier) *time.Duration { return &o.Ejection }, 30*time.Second, 1),
	duration("max_ejection", func(o *Outlier) *time.Duration { return &o.MaxEjection }, 5*time.Minute, 1),
	number("max_share", func(o *Outlier) *float64 { return &o.MaxShare }, 0.1, 0, 1),
)

func finishOutlier(d *decoder, o *Outlier, g given[Outlier]) {
	if o.MaxEjection < o.Ejection && !g.bad("ejection") && !g.bad("max_ejection") {
		at := "max_ejection"
		if !g.has(at) {
			at = "ejection"
		}
		d.failAt(at, "the ejection is %s and max_ejection %s, want one not below the first",
			FormatDuration(o.Ejection), FormatDuration(o.MaxEjection))
	}
}

// goesWith says which types a field is for; what is not here is for all.
var goesWith = []struct {
	field string
	types []DirectorType
}{
	{"sticky", []DirectorType{Fallback}},
	{"by", []DirectorType{Hash, Shard}},
	{"replicas", []DirectorType{Shard}},
	{"warmup", []DirectorType{Shard}},
	{"rampup", []DirectorType{Shard}},
	{"healthy", []DirectorType{Shard}},
	{"slow_start", []DirectorType{RoundRobin, Random, LeastConnections, P2C}},
}

func readDirector(d *decoder, v *Director) {
	g, ok := directorFields.read(d, v)
	if !ok {
		return
	}
	if !g.has("type") {
		d.failAt("type", "is missing, want round_robin, fallback, random, hash, shard, least_connections or p2c")
	}
	if g.has("select") && len(v.Select) == 0 && !g.bad("select") {
		d.failAt("select", "is empty, want at least one label: it would select every backend")
	}
	if v.Type != "" {
		for _, rule := range goesWith {
			if g.has(rule.field) && !slices.Contains(rule.types, v.Type) {
				d.failAt(rule.field, "does not go with the type %q, only with %s", v.Type, anyQuoted(rule.types))
			}
		}
		for i := range v.Members {
			m := &v.Members[i]
			if m.Rampup != Inherit && v.Type != Shard {
				d.failAt(fmt.Sprintf("backends[%d].rampup", i), "does not go with the type %q, only with %q", v.Type, Shard)
			}
			if m.Weight < 1 && v.Type == Shard {
				d.failAt(fmt.Sprintf("backends[%d].weight", i), "is %v, want 1 or more in a shard director", m.Weight)
			}
		}
	}
	if v.Type == Shard {
		if !g.has("replicas") {
			v.Replicas = defaultReplicas
		}
		if !g.has("healthy") {
			v.Healthy = HealthyChosen
		}
		points := 0.0
		for _, m := range v.Members {
			points += math.Floor(m.Weight * float64(v.Replicas))
		}
		if points > maxPoints {
			d.failAt("replicas", "replicas times the weights of all backends is %.0f, want at most %d", points, maxPoints)
		}
	}
	for i := range v.Members {
		if m := &v.Members[i]; m.Rampup == Inherit {
			m.Rampup = v.Rampup
		}
	}
	if !g.has("by") {
		v.By = v.defaultBy()
	}
}

func (v *Director) defaultBy() string {
	if v.Type == Hash || v.Type == Shard {
		return "url"
	}
	return ""
}

func readMembers(d *decoder, v *Director) {
	const want = `a name, or an object with "name", "weight" and "rampup"`
	var all []Member
	d.list("a list of backends", func(int) {
		m := Member{Weight: 1, Rampup: Inherit}
		switch d.peek() {
		case '"':
			if b, ok := d.text(want); ok {
				m.Name = string(b)
				d.right(ValidateName(m.Name))
			}
		case '{':
			before := d.count()
			u := new(Member)
			g, ok := memberFields.read(d, u)
			if ok && !g.has("name") {
				d.failAt("name", "is missing, want the name of a backend or director")
			}
			if d.count() > before {
				u.Weight, u.Rampup = 1, Inherit // not worth judging further
			}
			m = *u
		default:
			d.mistyped(want)
		}
		all = append(all, m)
	})
	v.Members = slices.Clip(all)
}

func writeMembers(e *encoder, v *Director) {
	if len(v.Members) == 0 {
		return
	}
	e.field("backends")
	e.list(len(v.Members), func(i int) {
		m := v.Members[i]
		if m.Rampup == v.Rampup {
			m.Rampup = Inherit
		}
		if m.Weight == 1 && m.Rampup == Inherit {
			e.text(m.Name)
			return
		}
		memberFields.write(e, &m)
	})
}

func readBy(d *decoder, v *Director) {
	const want = "url, path, host, client.ip, header:<name> or cookie:<name>"
	b, ok := d.text(want)
	if !ok {
		return
	}
	by := string(b)
	source, name, named := strings.Cut(by, ":")
	switch {
	case !named && slices.Contains([]string{"url", "path", "host", "client.ip"}, source):
	case named && source == "header" && isToken(name):
		by = strings.ToLower(by)
	case named && source == "cookie" && isToken(name):
	default:
		d.fail("is %s, want %s", quote(by), want)
		return
	}
	v.By = by
}

package store

import (
	"fmt"
	"strings"
)

// HealthState is an operator's word on a backend or director.
type HealthState string

// The states. Auto is as if there were no override.
const (
	Healthy HealthState = "healthy"
	Sick    HealthState = "sick"
	Auto    HealthState = "auto"
	Drain   HealthState = "drain" // not chosen for new requests
)

// Health is an operator's override of the health of a backend or director.
type Health struct {
	State  HealthState
	Reason string
	By     string // who said so
}

// Kind is HealthKind.
func (*Health) Kind() Kind { return HealthKind }

var healthFields = newSchema("a health override",
	field[Health]{name: "state",
		read: func(d *decoder, h *Health) {
			if b, ok := d.text(healthStates); ok {
				h.State = d.healthState(string(b))
			}
		},
		write: func(e *encoder, h *Health) {
			e.field("state")
			e.text(string(h.State))
		}, shape: stateShape},
	text("reason", func(h *Health) *string { return &h.Reason }, "", nil),
	text("by", func(h *Health) *string { return &h.By }, "", nil),
)

const healthStates = "healthy, sick, auto or drain"

// readHealth reads an object, or a state as plain text.
func readHealth(d *decoder, h *Health) {
	if d.peek() == '{' {
		if g, ok := healthFields.read(d, h); ok && !g.has("state") {
			d.failAt("state", "is missing, want %s", healthStates)
		}
		return
	}
	h.State = d.healthState(string(d.data))
	d.pos = len(d.data)
}

func (d *decoder) healthState(s string) HealthState {
	switch state := HealthState(strings.ToLower(strings.TrimSpace(s))); state {
	case Healthy, Sick, Auto, Drain:
		return state
	}
	is := fmt.Sprintf("is %s", quote(s))
	if len(d.path) == 0 {
		is = fmt.Sprintf("the value is %s", quote(s))
	}
	d.fail("%s, want %s, or an object with state, reason and by", is, healthStates)
	return ""
}

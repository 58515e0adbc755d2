package prober

import "time"

// Stage is where on its way a probe failed; empty if it was good.
type Stage string

const (
	Resolve   Stage = "resolve"   // the name has no known address
	Connect   Stage = "connect"   // no connection, or none in time
	Handshake Stage = "handshake" // TLS
	Send      Stage = "send"      // the request was not taken
	Receive   Stage = "receive"   // no answer, or a part of one
	Answer    Stage = "answer"    // something that is no answer
	Status    Stage = "status"    // an answer, but not the one expected
	Close     Stage = "close"     // the right answer, but the connection did not end
)

// History is what is known of a check from its probes: a 64-bit register for each
// kind of observation, the newest in bit 0, as Varnish keeps them, and the last
// probe's result. It does not change: a probe makes a new one, which is published
// with one atomic store, so that all of it belongs together. The zero History is
// that of a check without probes.
type History struct {
	IPv4, IPv6, Unix        uint64 // a connection over that was made
	SendFailed, Sent        uint64
	ReceiveFailed, Received uint64
	Happy                   uint64 // good

	Probes     uint64 // made so far; local faults are not among them
	GoodProbes uint64

	// Seeded of Probes, the oldest, were made by Peer, another node. See Manager.Seed.
	Seeded uint64
	Peer   string

	// Last is how long the last probe took to a whole answer, 0 if there was
	// none. Average is over good ones, where a new one counts for a quarter.
	Last, Average time.Duration

	At    time.Time // when the last one ended
	Stage Stage     // where it failed
	Text  string    // what was wrong, or the answer's first line
}

// observation is one bit of each register.
type observation uint8

const (
	sawIPv4 observation = 1 << iota
	sawIPv6
	sawUnix
	sawSendFailed
	sawSent
	sawReceiveFailed
	sawReceived
	sawHappy
)

// averageRate is Varnish's AVG_RATE: how many good probes the average follows.
const averageRate = 4

// next is the history after one more probe.
func (h *History) next(o *outcome, at time.Time) *History {
	bit := func(register uint64, saw observation) uint64 {
		register <<= 1
		if o.saw&saw != 0 {
			register |= 1
		}
		return register
	}
	n := &History{
		IPv4: bit(h.IPv4, sawIPv4), IPv6: bit(h.IPv6, sawIPv6), Unix: bit(h.Unix, sawUnix),
		SendFailed: bit(h.SendFailed, sawSendFailed), Sent: bit(h.Sent, sawSent),
		ReceiveFailed: bit(h.ReceiveFailed, sawReceiveFailed), Received: bit(h.Received, sawReceived),
		Happy:  bit(h.Happy, sawHappy),
		Probes: h.Probes + 1, GoodProbes: h.GoodProbes,
		Seeded: h.Seeded, Peer: h.Peer,
		Last: o.answered, Average: h.Average,
		At: at, Stage: o.stage, Text: o.text,
	}
	if o.saw&sawHappy != 0 {
		n.GoodProbes++
		n.Average += (n.Last - n.Average) / time.Duration(min(n.GoodProbes, averageRate))
	}
	return n
}

// Row is one register as it is shown.
type Row struct {
	Letter byte   // of a set bit
	Label  string // Varnish's
	Bits   uint64
}

// String is the register from the oldest to the newest, "-" for a bit not set.
func (r Row) String() string {
	var b [64]byte
	for i := range b {
		b[i] = '-'
		if r.Bits>>(63-i)&1 != 0 {
			b[i] = r.Letter
		}
	}
	return string(b[:])
}

// Rows returns the registers in the order that Varnish shows them in.
func (h *History) Rows() [8]Row {
	return [8]Row{
		{'4', "Good IPv4", h.IPv4},
		{'6', "Good IPv6", h.IPv6},
		{'U', "Good UNIX", h.Unix},
		{'x', "Error Xmit", h.SendFailed},
		{'X', "Good Xmit", h.Sent},
		{'r', "Error Recv", h.ReceiveFailed},
		{'R', "Good Recv", h.Received},
		{'H', "Happy", h.Happy},
	}
}

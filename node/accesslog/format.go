package accesslog

import (
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// stamp is the text of a second, which many lines share.
type stamp struct {
	second int64 // Unix time
	text   []byte
}

const (
	jsonSecond     = "2006-01-02T15:04:05"
	combinedSecond = "02/Jan/2006:15:04:05 -0700"
)

func (s *stamp) of(t time.Time, layout string) []byte {
	if second := t.Unix(); len(s.text) == 0 || s.second != second {
		s.second, s.text = second, t.AppendFormat(s.text[:0], layout)
	}
	return s.text
}

func appendJSON(b []byte, e *Entry, s *stamp) []byte {
	b = append(b, `{"time":"`...)
	b = append(b, s.of(e.Time.UTC(), jsonSecond)...)
	b = append(b, '.')
	b = appendMicros(b, e.Time.Nanosecond()/1000)
	b = append(b, 'Z', '"')
	client := e.Client.Addr().Unmap()
	if client.IsValid() {
		b = append(b, `,"client":"`...)
		b = append(appendAddr(b, client), '"')
		if p := e.Client.Port(); p != 0 {
			b = append(b, `,"client_port":`...)
			b = strconv.AppendUint(b, uint64(p), 10)
		}
	}
	if peer := e.Peer.Addr().Unmap(); peer.IsValid() && peer != client {
		b = append(b, `,"peer":"`...)
		b = append(appendAddr(b, peer), '"')
	}
	b = append(b, `,"tls":`...)
	b = strconv.AppendBool(b, e.TLS)
	b = jsonText(b, `,"method":"`, e.Method, maxName)
	b = jsonText(b, `,"target":"`, e.Target, maxTarget)
	b = jsonText(b, `,"host":"`, e.Host, maxName)
	b = jsonText(b, `,"proto":"`, e.Proto, maxName)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(e.Status), 10)
	b = append(b, `,"bytes":`...)
	b = strconv.AppendInt(b, e.Sent, 10)
	b = append(b, `,"received":`...)
	b = strconv.AppendInt(b, e.Received, 10)
	b = jsonText(b, `,"referer":"`, e.Referer, maxText)
	b = jsonText(b, `,"user_agent":"`, e.UserAgent, maxText)
	b = jsonText(b, `,"route":"`, e.Route, maxName)
	b = jsonText(b, `,"director":"`, e.Director, maxName)
	b = jsonText(b, `,"backend":"`, e.Backend, maxName)
	if e.Address.IsValid() {
		b = append(b, `,"address":"`...)
		b = append(appendAddrPort(b, e.Address), '"')
	}
	b = append(b, `,"retries":`...)
	b = strconv.AppendInt(b, int64(e.Retries), 10)
	b = appendSeconds(b, `,"queue":`, e.Queue)
	b = appendSeconds(b, `,"connect":`, e.Connect)
	b = appendSeconds(b, `,"first_byte":`, e.FirstByte)
	b = appendSeconds(b, `,"total":`, e.Total)
	b = jsonText(b, `,"error":"`, e.Error, maxName)
	b = jsonText(b, `,"cause":"`, e.Cause, maxName)
	b = jsonText(b, `,"request_id":"`, e.RequestID, maxName)
	b = jsonText(b, `,"trace_id":"`, e.TraceID, maxName)
	if e.Revision != 0 {
		b = append(b, `,"revision":`...)
		b = strconv.AppendInt(b, e.Revision, 10)
	}
	return append(b, '}', '\n')
}

func appendCombined(b []byte, e *Entry, s *stamp) []byte {
	if client := e.Client.Addr().Unmap(); client.IsValid() {
		b = appendAddr(b, client)
	} else {
		b = append(b, '-')
	}
	b = append(b, " - - ["...)
	b = append(b, s.of(e.Time.Local(), combinedSecond)...)
	b = append(b, `] "`...)
	if len(e.Method) == 0 {
		b = append(b, '-')
	} else {
		b = appendApache(b, e.Method, maxName)
		b = append(b, ' ')
		b = appendApache(b, e.Target, maxTarget)
		b = append(b, ' ')
		b = appendApache(b, e.Proto, maxName)
	}
	b = append(b, `" `...)
	if e.Status == 0 {
		b = append(b, "000"...)
	} else {
		b = strconv.AppendInt(b, int64(e.Status), 10)
	}
	b = append(b, ' ')
	if e.Sent == 0 {
		b = append(b, '-')
	} else {
		b = strconv.AppendInt(b, e.Sent, 10)
	}
	b = apacheField(b, e.Referer)
	b = apacheField(b, e.UserAgent)
	b = apacheText(b, ` host="`, e.Host)
	b = apacheText(b, ` route="`, e.Route)
	b = apacheText(b, ` director="`, e.Director)
	b = apacheText(b, ` backend="`, e.Backend)
	if e.Address.IsValid() {
		b = append(b, ` address="`...)
		b = append(appendAddrPort(b, e.Address), '"')
	}
	b = append(b, " received="...)
	b = strconv.AppendInt(b, e.Received, 10)
	b = append(b, " retries="...)
	b = strconv.AppendInt(b, int64(e.Retries), 10)
	b = appendSeconds(b, " queue=", e.Queue)
	b = appendSeconds(b, " connect=", e.Connect)
	b = appendSeconds(b, " first_byte=", e.FirstByte)
	b = appendSeconds(b, " total=", e.Total)
	b = apacheText(b, ` error="`, e.Error)
	b = apacheText(b, ` cause="`, e.Cause)
	b = apacheText(b, ` request_id="`, e.RequestID)
	if e.Revision != 0 {
		b = append(b, " revision="...)
		b = strconv.AppendInt(b, e.Revision, 10)
	}
	return append(b, '\n')
}

// appendAddr leaves the zone out, which is the name of an interface and may be
// anything.
func appendAddr(b []byte, a netip.Addr) []byte { return a.WithZone("").AppendTo(b) }

func appendAddrPort(b []byte, a netip.AddrPort) []byte {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()).AppendTo(b)
}

func appendSeconds(b []byte, name string, d time.Duration) []byte {
	if d < 0 {
		return b
	}
	b = append(b, name...)
	b = strconv.AppendInt(b, int64(d/time.Second), 10)
	b = append(b, '.')
	return appendMicros(b, int(d%time.Second/time.Microsecond))
}

// appendMicros adds six digits.
func appendMicros(b []byte, n int) []byte {
	return append(b, byte('0'+n/100000), byte('0'+n/10000%10), byte('0'+n/1000%10),
		byte('0'+n/100%10), byte('0'+n/10%10), byte('0'+n%10))
}

func cut[T string | []byte](s T, limit int) (T, bool) {
	if len(s) <= limit {
		return s, false
	}
	end := limit
	for end > limit-utf8.UTFMax && s[end]&0xc0 == 0x80 { // within a character
		end--
	}
	return s[:end], true
}

const hex = "0123456789abcdef"

// jsonText adds a member whose value is text, if it is not empty. name has the
// opening quote.
func jsonText[T string | []byte](b []byte, name string, s T, limit int) []byte {
	if len(s) == 0 {
		return b
	}
	b = append(b, name...)
	s, long := cut(s, limit)
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if asIs[c] {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			b = append(b, s[from:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			default:
				b = append(b, `\u00`...)
				b = append(b, hex[c>>4], hex[c&15])
			}
			i++
			from = i
			continue
		}
		r, n := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(b, s[from:i]...)
			b = append(b, `\ufffd`...)
			from = i + 1
		case r < 0xa0 || r == 0x2028 || r == 0x2029:
			// Control characters to some terminals, and ends of lines to some readers.
			b = append(b, s[from:i]...)
			b = append(b, `\u`...)
			b = append(b, hex[r>>12], hex[r>>8&15], hex[r>>4&15], hex[r&15])
			from = i + n
		}
		i += n
	}
	b = append(b, s[from:]...)
	if long {
		b = append(b, "..."...)
	}
	return append(b, '"')
}

// asIs are the bytes that stand for themselves in both formats.
var asIs = func() (is [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		is[c] = c != '"' && c != '\\'
	}
	return is
}()

// appendApache escapes as ap_escape_logitem of Apache's server/util.c does.
func appendApache[T string | []byte](b []byte, s T, limit int) []byte {
	s, long := cut(s, limit)
	from := 0
	for i := range len(s) {
		c := s[i]
		if asIs[c] {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		b = append(b, '\\')
		switch c {
		case '"', '\\':
			b = append(b, c)
		case '\b':
			b = append(b, 'b')
		case '\n':
			b = append(b, 'n')
		case '\r':
			b = append(b, 'r')
		case '\t':
			b = append(b, 't')
		case '\v':
			b = append(b, 'v')
		default:
			b = append(b, 'x', hex[c>>4], hex[c&15])
		}
	}
	b = append(b, s[from:]...)
	if long {
		b = append(b, "..."...)
	}
	return b
}

// apacheField adds a field of the combined format.
func apacheField(b, s []byte) []byte {
	b = append(b, ' ', '"')
	if len(s) == 0 {
		b = append(b, '-')
	} else {
		b = appendApache(b, s, maxText)
	}
	return append(b, '"')
}

// apacheText adds a field with a name, if it is not empty. name has the opening
// quote.
func apacheText[T string | []byte](b []byte, name string, s T) []byte {
	if len(s) == 0 {
		return b
	}
	b = append(b, name...)
	return append(appendApache(b, s, maxName), '"')
}

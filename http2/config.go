package http2

import "time"

// Config is what one end of a connection allows the other. Zero fields mean the
// defaults.
type Config struct {
	// MaxStreams is how many streams a client may have open at once, and how many
	// handlers run at once; more are refused with REFUSED_STREAM. Servers only.
	// Zero means 128.
	MaxStreams uint32
	// MaxHeaderSize bounds a head or trailer section, in bytes as RFC 9113 section
	// 6.5.2 counts them: 32 a field besides name and value. A larger request is 431
	// from Request, a larger answer a stream error. Zero means 64 KiB.
	MaxHeaderSize int
	// MaxFields bounds the number of fields in the same way. Zero means 128.
	MaxFields int
	// MaxTarget bounds a request's target in bytes; more is 414 from Request. Zero
	// means 16 KiB.
	MaxTarget int
	// StreamWindow and ConnWindow bound how many bytes of bodies the peer may send
	// that were not read yet, for each stream and in all. They bound memory, and the
	// bandwidth of a stream to a window a round trip. Zero means 256 KiB and 1 MiB;
	// ConnWindow is at least 65535 (RFC 9113 section 6.9.2).
	StreamWindow, ConnWindow int32
	// IdleTimeout ends a connection that had no stream open for that long, with
	// GOAWAY. Servers only. Zero means none.
	IdleTimeout time.Duration
	// WriteTimeout closes a connection whose peer accepts no byte for that long while
	// there are some to be written. Zero means none.
	WriteTimeout time.Duration
	// PingInterval: after no frame was received for that long (up to twice that, as
	// it is looked at once an interval) while streams are open, a PING is sent, and
	// the connection is closed if nothing comes for 15 s more. Zero means none.
	PingInterval time.Duration
}

func (c Config) withDefaults() Config {
	if c.MaxStreams == 0 {
		c.MaxStreams = 128
	}
	if c.MaxHeaderSize <= 0 {
		c.MaxHeaderSize = 64 << 10
	}
	if c.MaxFields <= 0 {
		c.MaxFields = 128
	}
	if c.MaxTarget <= 0 {
		c.MaxTarget = 16 << 10
	}
	if c.StreamWindow <= 0 {
		c.StreamWindow = 256 << 10
	}
	if c.ConnWindow <= 0 {
		c.ConnWindow = 1 << 20
	}
	c.ConnWindow = max(c.ConnWindow, initialWindow)
	return c
}

// initialWindow is that of a connection, and of its streams before SETTINGS (RFC
// 9113 section 6.9.2).
const initialWindow = 65535

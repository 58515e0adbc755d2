package http2

import (
	"errors"
	"fmt"

	frames "golang.org/x/net/http2"
)

// Error codes for Reset, and in a ResetError (RFC 9113 section 7).
const (
	NoError         uint32 = 0x0
	ProtocolError   uint32 = 0x1
	InternalError   uint32 = 0x2
	FlowControl     uint32 = 0x3
	StreamClosed    uint32 = 0x5
	FrameSize       uint32 = 0x6
	RefusedStream   uint32 = 0x7
	Cancel          uint32 = 0x8
	Compression     uint32 = 0x9
	EnhanceYourCalm uint32 = 0xb
)

// A ResetError says that a stream ended early, and not with its connection.
type ResetError struct {
	Code   uint32
	Remote bool // the peer did it, with RST_STREAM or GOAWAY
	// Unprocessed: the peer surely did not act on the request (it said
	// REFUSED_STREAM, or GOAWAY with a lower last stream, or was never sent it), so it
	// may be sent elsewhere whatever its method (RFC 9113 section 8.7).
	Unprocessed bool
}

func (e *ResetError) Error() string {
	by := "here"
	if e.Remote {
		by = "by the peer"
	}
	return fmt.Sprintf("http2: stream reset %s: %v", by, frames.ErrCode(e.Code))
}

// errEnded: Send after the end of what there was to send.
var errEnded = errors.New("http2: sent after the end")

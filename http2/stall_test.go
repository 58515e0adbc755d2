package http2

import (
	"errors"
	"os"
	"testing"
	"time"

	frames "golang.org/x/net/http2"
)

// A peer that opens its windows wide and then reads nothing holds a Send no longer
// than ArmWrite says, whatever the connection's own limit.
func TestSendEndsThoughThePeerReadsNothing(t *testing.T) {
	t.Parallel()
	a, b := sockets(t)
	c := dial(t, a, Config{WriteTimeout: time.Hour})
	defer b.Close() // and not before
	w := frames.NewFramer(b, nil)
	w.WriteSettings(frames.Setting{ID: frames.SettingInitialWindowSize, Val: 1 << 30})
	w.WriteWindowUpdate(0, 1<<30)
	<-c.Ready()
	s := open(t, c, request("POST", "/", -1), "", false)
	s.ArmWrite(100 * time.Millisecond)
	piece := make([]byte, 1<<20)
	var err error
	for range 1000 {
		if err = s.Send(nil, piece, false, nil); err != nil {
			break
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Send: %v", err)
	}
}

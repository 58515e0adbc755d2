package zaplog_test

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"roster/store/internal/zaplog"
)

func TestMessagesArriveWithTheirFields(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	same := func(l zapcore.Level, _ string) slog.Level { return slog.Level(l) * 4 }
	z := zaplog.New(log, same).With(zap.String("member", "a"))
	z.Warn("slow", zap.Duration("took", time.Second), zap.Int("n", 3), zap.Error(errors.New("why")), zap.Strings("to", []string{"x", "y"}))
	zaplog.New(log, zaplog.Debug).Error("retrying")
	z.Warn("Apply", zap.String("raftReq", "put:{key:\"/roster/certificates/a\" value:\"-----BEGIN PRIVATE KEY-----\"}")) // as etcd's server does
	const want = `level=WARN msg=slow member=a took=1s n=3 error=why to="[x y]"
level=DEBUG msg=retrying
level=WARN msg=Apply member=a
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestAFatalMessageActsThoughNothingPrintsIt(t *testing.T) {
	t.Parallel()
	done := make(chan bool)
	go func() {
		defer close(done)
		zaplog.New(nil, zaplog.Debug, zap.WithFatalHook(zapcore.WriteThenGoexit)).Fatal("over")
		done <- true
	}()
	if <-done {
		t.Error("the goroutine went on")
	}
}

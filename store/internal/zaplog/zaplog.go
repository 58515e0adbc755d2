// Package zaplog lets etcd's code, which logs through zap, log through slog.
package zaplog

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// A Level says at which slog level a zap message of that level and text appears.
type Level func(zapcore.Level, string) slog.Level

// Debug puts everything at debug: for etcd's client, whose callers get its
// errors anyway and should not read each of its retries.
func Debug(zapcore.Level, string) slog.Level { return slog.LevelDebug }

// New returns a zap logger that writes to log. A nil log discards. Opts are
// zap's own.
func New(log *slog.Logger, level Level, opts ...zap.Option) *zap.Logger {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return zap.New(&core{handler: log.Handler(), level: level}, opts...)
}

// request is the field in which etcd's server logs what it applies, at debug: values as
// they are put, private keys among them, and tokens of log-ins. It is left out.
const request = "raftReq"

// A core is immutable, as zapcore wants it: With returns a changed copy.
type core struct {
	handler slog.Handler
	level   Level
	fields  []zapcore.Field
}

// Enabled lets fatal and panicking messages through even if nothing prints
// them, because zap acts on them in Check.
func (c *core) Enabled(l zapcore.Level) bool {
	return l >= zapcore.DPanicLevel || c.handler.Enabled(context.Background(), c.level(l, ""))
}

func (c *core) With(fields []zapcore.Field) zapcore.Core {
	copied := *c
	copied.fields = slices.Concat(c.fields, fields)
	return &copied
}

func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) {
		return ce
	}
	return ce.AddCore(e, c)
}

func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	ctx, level := context.Background(), c.level(e.Level, e.Message)
	if !c.handler.Enabled(ctx, level) {
		return nil
	}
	r := slog.NewRecord(e.Time, level, e.Message, 0)
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range slices.Concat(c.fields, fields) {
		if f.Key == request {
			continue
		}
		clear(enc.Fields)
		f.AddTo(enc)
		for k, v := range enc.Fields { // one, or an error and its verbose form
			if s, ok := v.(fmt.Stringer); ok {
				v = s.String()
			}
			r.AddAttrs(slog.Any(k, v))
		}
	}
	return c.handler.Handle(ctx, r)
}

func (c *core) Sync() error { return nil }

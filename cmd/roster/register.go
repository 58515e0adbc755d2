package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/manifest"
	"roster/cmd/roster/internal/plan"
	"roster/cmd/roster/internal/show"
	"roster/store"
)

func registerCommand(s streams) *cobra.Command {
	var (
		c      client
		file   string
		ttl    time.Duration
		force  bool
		format string
	)
	cmd := &cobra.Command{
		Use:   "register NAME (FIELD=VALUE... | JSON | -f FILE) [-- CMD ARGS...]",
		Short: "Have a backend for as long as a command runs",
		Long: `Write a backend under a lease, run a command, and delete the backend when that ends. If
this process is killed, or its machine dies, etcd deletes the backend when --ttl has
passed. Signals are passed on to the command, and its exit code is ours (128 + N if signal
N ended it). Without a command, the backend is there until SIGINT or SIGTERM.

The definition is given as in roster put. The backend is written before the command
starts: with a probe, it gets its first request once it answers.

While etcd is away, the command runs on. If the lease ends meanwhile, and the backend with
it, both are made again. A backend of that name that somebody else wrote is not
overwritten, except with --force; one under a lease may be of an earlier process, and is
waited for as long as that lease was granted for.`,
		Example: `  roster register web-9 host=10.0.0.9 port=8080 --ttl 10s -- ./app --port 8080
  roster register team-a/web-9 host=10.0.0.9 probe=light labels.app=web
  roster register demo host=127.0.0.1 port=9001 -- roster demo-origin`,
		Args: args(1, math.MaxInt, "a name and a definition"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var command []string
			if at := cmd.ArgsLenAtDash(); at >= 0 {
				args, command = args[:at], args[at:]
				if len(args) == 0 {
					return usage("roster register takes a name before --; roster register --help has examples")
				}
				if len(command) == 0 {
					return usage("there is no command after --")
				}
			}
			if err := oneOf("output", format, textOrJSON); err != nil {
				return err
			}
			if format == "json" && command != nil {
				return usage("--output is json, and there is a command, whose output is ours: want one of them")
			}
			if ttl < time.Second {
				return usage("--ttl is %v, want 1s or more", ttl)
			}
			k := store.Key{Kind: store.Backends, Name: args[0]}
			e, err := definition(k, args[1:], file, s.in)
			if err != nil {
				return err
			}
			return c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				r := &registration{st: st, key: k, value: e.Value, ttl: ttl, force: force, log: s.err}
				if _, err := plan.Make(ctx, st, []manifest.Entry{e}); err != nil {
					return err
				}
				if err := checkLevels(ctx, st, force, map[store.Key][]byte{k: e.Value}); err != nil {
					return err
				}
				if err := r.begin(ctx); err != nil {
					return err
				}
				revision, lease := r.revision, r.lease // keep changes them
				ctx, stop := context.WithCancel(ctx)
				kept := make(chan struct{})
				go func() {
					defer close(kept)
					r.keep(ctx)
				}()
				defer func() {
					stop()
					<-kept
					r.end(ctx, c.limit())
				}()
				if command == nil {
					if format == "json" {
						err = show.JSON(s.out, map[string]any{"key": k.String(), "revision": revision, "lease": fmt.Sprintf("%x", lease)})
					} else {
						_, err = fmt.Fprintf(s.err, "registered %s at revision %d, until this is ended\n", k, revision)
					}
					if err != nil {
						return err
					}
					<-ctx.Done()
					return nil
				}
				return runCommand(s, command)
			})
		},
	}
	c.add(cmd.Flags())
	cmd.Flags().StringVarP(&file, "file", "f", "", "file with the definition, YAML or JSON; - is stdin")
	cmd.Flags().Var(newDuration(&ttl, 10*time.Second), "ttl", "how long the backend stays after this process was killed, or has lost etcd; whole seconds")
	cmd.Flags().BoolVar(&force, "force", false, "overwrite a backend of that name; write also what nodes of an older release do not take")
	outputFlag(cmd, &format, textOrJSON)
	return cmd
}

// registration is a backend under a lease that is kept alive. begin, keep and end follow
// each other.
type registration struct {
	st    *store.Store
	key   store.Key
	value []byte
	ttl   time.Duration
	force bool
	log   io.Writer

	lease    int64
	revision int64 // of our value
	alive    <-chan struct{}
	release  context.CancelFunc // of alive
}

// begin registers for the first time, waiting for the lease of an earlier process to
// end.
func (r *registration) begin(ctx context.Context) error {
	var deadline time.Time // zero: not known yet
	for {
		err := r.register(ctx, 0)
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
		if deadline.IsZero() {
			granted, err := r.others(ctx)
			if err != nil {
				return err
			}
			if granted > 0 {
				fmt.Fprintf(r.log, "roster: %s is registered already: waiting for at most %v\n", r.key, granted)
				deadline = time.Now().Add(granted + time.Second) // etcd looks for what has ended twice a second
			}
		} else if time.Now().After(deadline) {
			return fmt.Errorf("%s is registered already, and its lease is kept alive: choose another name, or use --force: %w", r.key, store.ErrConflict)
		}
		select {
		case <-time.After(retryRegister / 4):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// others is the time that was granted to the lease of an earlier process. It is 0 if that
// has ended: its key is gone, or about to go, which takes etcd a while where many end at once.
func (r *registration) others(ctx context.Context) (time.Duration, error) {
	e, _, err := r.st.Get(ctx, r.key, 0)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if e.Lease == 0 {
		return 0, fmt.Errorf("%s is there already, at revision %d, and under no lease: delete it first, or use --force: %w", r.key, e.ModRevision, store.ErrConflict)
	}
	granted, _, err := r.st.LeaseTTL(ctx, e.Lease)
	if errors.Is(err, store.ErrNoLease) {
		return 0, nil
	}
	return granted, err
}

// retryRegister is the longest pause between two attempts.
const retryRegister = 2 * time.Second

// register makes a lease and writes the backend under it, if that is at a revision.
func (r *registration) register(ctx context.Context, ifRevision int64) error {
	lease, err := r.st.Grant(ctx, r.ttl)
	if err != nil {
		return err
	}
	op := store.Op{Key: r.key, Value: r.value, IfRevision: ifRevision, Lease: lease}
	if r.force {
		op.IfRevision = store.AnyRevision
	}
	rev, err := r.st.Apply(ctx, []store.Op{op})
	if err != nil {
		// Also if it is not known whether it was done: with the lease, the key goes.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), retryRegister)
		defer cancel()
		_ = r.st.Revoke(ctx, lease)
		return err
	}
	alive, release := context.WithCancel(context.WithoutCancel(ctx)) // end takes it back, not ctx
	r.alive = r.st.KeepAlive(alive, lease)
	r.lease, r.revision, r.release = lease, rev, release
	return nil
}

// keep registers again whenever the lease has ended, until ctx ends.
func (r *registration) keep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.alive:
		}
		r.release()
		fmt.Fprintf(r.log, "roster: the lease of %s has ended: registering it again\n", r.key)
		said := ""
		for attempt := 0; ; attempt++ {
			err := r.again(ctx)
			if err == nil {
				fmt.Fprintf(r.log, "roster: registered %s again, at revision %d\n", r.key, r.revision)
				break
			}
			if ctx.Err() != nil {
				return
			}
			if text := err.Error(); text != said {
				said = text
				fmt.Fprintf(r.log, "roster: %s is not registered: %v\n", r.key, err)
			}
			pause := min(retryRegister, 100*time.Millisecond<<min(attempt, 10))
			select {
			case <-time.After(pause/2 + rand.N(pause/2)):
			case <-ctx.Done():
				return
			}
		}
	}
}

// again registers after the lease was lost, as far as we know. Etcd may have it yet, and the
// backend under it, which comes under the new one then: no node sees it go.
func (r *registration) again(ctx context.Context) error {
	old := r.lease
	err := r.register(ctx, r.revision)
	var conflict *store.ConflictError
	if errors.As(err, &conflict) && conflict.Found == 0 {
		err = r.register(ctx, 0)
	}
	if err == nil {
		_ = r.st.Revoke(ctx, old) // nothing is under it; else it ends by itself
	}
	return err
}

// end deletes the backend, with the lease.
func (r *registration) end(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	r.release()
	if err := r.st.Revoke(ctx, r.lease); err != nil {
		fmt.Fprintf(r.log, "roster: %s ends with its lease, in at most %v: %v\n", r.key, r.ttl, err)
	}
}

// runCommand runs a command to its end, with our streams, and passes signals on to it.
func runCommand(s streams, command []string) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.in, s.out, s.err
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passed...) // before it starts: none is to end us alone
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot run %s: %w", command[0], err)
	}
	ended := make(chan struct{})
	passing := make(chan struct{})
	go func() {
		defer close(passing)
		for {
			select {
			case sig := <-signals:
				if !hasGot(sig) {
					_ = cmd.Process.Signal(sig) // it may have ended
				}
			case <-ended:
				return
			}
		}
	}()
	err := cmd.Wait()
	close(ended)
	<-passing
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	code := exit.ExitCode()
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		code = 128 + int(status.Signal())
	}
	return endedError(cmp.Or(code, exitFailed))
}

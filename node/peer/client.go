package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"roster/prober"
	"roster/store"
)

// Peer is a process of a node that may be asked, and where.
type Peer struct {
	store.Instance
	Address string // host:port
}

// Client asks peers. Both fields are required.
type Client struct {
	Credentials *Credentials
	Identity    Identity // the asking node's
}

// Asked is how it went with a peer.
type Asked struct {
	Peer
	Histories int // that it told
	// Err is why it told no more; nil if it told all, or if others had and it was not waited
	// for.
	Err error
}

const (
	enough      = 3                      // peers whose answers are taken
	attempts    = 6                      // peers that are asked, at most
	perStep     = time.Second            // for a peer to connect, to shake hands, to begin to answer
	perPeer     = 2 * time.Second        // for all of that, and the answer
	afterFirst  = 250 * time.Millisecond // for those of others, once there is a whole one
	maxTold     = 500                    // bytes of a refusal that are quoted
	maxHeadSize = 8 << 10
)

// Ask asks peers, in random order, three at a time, and others for those who do not answer,
// six at most. It returns what they know, of each check the newest, until ctx ends, or all
// have answered, or one has and the others had a quarter of a second more.
func (c *Client) Ask(ctx context.Context, peers []Peer) (map[prober.Key]prober.Seed, []Asked) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rest := make(chan Peer, attempts)
	for i, k := range rand.Perm(len(peers)) {
		if i < attempts {
			rest <- peers[k]
		}
	}
	close(rest)
	var (
		workers sync.WaitGroup
		mu      sync.Mutex
		seeds   = make(map[prober.Key]prober.Seed)
		asked   []Asked
		whole   bool
	)
	for range enough {
		workers.Go(func() {
			for p := range rest {
				told := 0
				err := c.ask(ctx, p, func(key prober.Key, h prober.History) {
					mu.Lock()
					defer mu.Unlock()
					told++
					if s, ok := seeds[key]; ok && h.At.After(s.History.At) || !ok && len(seeds) < maxRecords {
						seeds[key] = prober.Seed{History: h, Peer: p.Node}
					}
				})
				mu.Lock()
				if whole && ctx.Err() != nil {
					err = nil
				}
				asked = append(asked, Asked{p, told, err})
				if err == nil && !whole {
					whole = true
					time.AfterFunc(afterFirst, cancel)
				}
				mu.Unlock()
				if err == nil {
					return
				}
			}
		})
	}
	workers.Wait()
	return seeds, asked
}

// ask asks one peer.
func (c *Client) ask(ctx context.Context, p Peer, take func(prober.Key, prober.History)) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, perPeer, fmt.Errorf("no whole answer within %v", perPeer))
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx) // whatever that broke
		}
	}()
	config, err := c.Credentials.client()
	if err != nil {
		return err
	}
	transport := &http.Transport{
		TLSClientConfig: config, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeadSize,
		DialContext: (&net.Dialer{Timeout: perStep}).DialContext, TLSHandshakeTimeout: perStep, ResponseHeaderTimeout: perStep,
	}
	defer transport.CloseIdleConnections()
	where := url.URL{Scheme: "https", Host: p.Address, Path: "/v1/histories",
		RawQuery: url.Values{"prefix": {c.Identity.Prefix}, "cluster": {c.Identity.Cluster}}.Encode()}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), nil)
	if err != nil {
		return err
	}
	asked := time.Now()
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return explain(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(answer.Body, maxTold))
		return fmt.Errorf("it answers %s: %q", answer.Status, strings.TrimSpace(string(said)))
	}
	for name, want := range map[string]string{prefixField: c.Identity.Prefix, clusterField: c.Identity.Cluster} {
		if got := answer.Header.Get(name); got != want {
			return fmt.Errorf("its %s is %q, want %q", name, got, want)
		}
	}
	if answer.Header.Get(instanceField) == c.Identity.Instance.String() {
		return errors.New("it is this node itself")
	}
	return readRecords(io.LimitReader(answer.Body, maxBytes), func(key prober.Key, h prober.History, age time.Duration) {
		h.At = asked.Add(-age) // or later: nothing is older than it seems
		take(key, h)
	})
}

// explain says who refused whose certificate.
func explain(err error) error {
	if remote := (*net.OpError)(nil); errors.As(err, &remote) && remote.Op == "remote error" {
		return fmt.Errorf("it refuses the certificate of --peer-tls-cert: %w", remote) // err may say where package http was
	}
	return err
}

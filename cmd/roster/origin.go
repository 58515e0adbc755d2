package main

import (
	"cmp"
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/origin"
)

func originCommand(s streams) *cobra.Command {
	var listen, name string
	cmd := &cobra.Command{
		Use:   "demo-origin",
		Short: "Run a small HTTP server to try roster on",
		Long: `Run an HTTP server that answers every request with its own name and the request line
and header that it received, and /healthz with ok.`,
		Example: `  roster demo-origin --listen 127.0.0.1:9001 --name web-1
  roster put backend web-1 host=127.0.0.1 port=9001 && curl localhost:8080`,
		Args: args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return fmt.Errorf("%w; choose another address with --listen", err)
			}
			name := cmp.Or(name, l.Addr().String())
			fmt.Fprintf(s.err, "origin %s on http://%s\n", name, l.Addr())
			return origin.Serve(cmd.Context(), l, name)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:9001", "address to listen on, HOST:PORT")
	cmd.Flags().StringVar(&name, "name", "", "what it calls itself; the address by default")
	return cmd
}

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/show"
	"roster/store"
)

// release is the version of this binary, set when it is linked. Without, it is what Go
// noted about the checkout.
var release string

func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

func versionCommand(s streams) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Example: `  roster version
  roster version -o json`,
		Args: args(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			if err := oneOf("output", format, textOrJSON); err != nil {
				return err
			}
			v := struct {
				Version  string `json:"version"`
				Level    int    `json:"level"` // of definitions
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{version(), store.Level, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if format == "json" {
				return show.JSON(s.out, v)
			}
			_, err := fmt.Fprintf(s.out, "roster %s, definitions of level %d (%s, %s)\n", v.Version, v.Level, v.Go, v.Platform)
			return err
		},
	}
	outputFlag(cmd, &format, textOrJSON)
	return cmd
}

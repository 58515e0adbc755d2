package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func manCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the man pages",
		Long: `Write a man page for roster and each of its commands into a folder, which is made if
it is not there. Packages have them; man -l shows one that is not installed.

The date in them is that of SOURCE_DATE_EPOCH, if that is set, for reproducible builds.`,
		Example: `  roster man /usr/local/share/man/man1
  roster man . && man -l roster-node.1`,
		Args: args(1, 1, "a folder"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "roster " + version(), Manual: "roster"}, args[0]); err != nil {
				return err
			}
			pages := 0
			count(root, &pages)
			_, err := fmt.Fprintf(s.out, "%d man pages are in %s\n", pages, args[0])
			return err
		},
	}
}

// count counts the commands that have a man page.
func count(cmd *cobra.Command, n *int) {
	*n++
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			count(c, n)
		}
	}
}

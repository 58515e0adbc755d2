//go:build !unix

package main

import "os"

// passed are the signals that are passed on to a command.
var passed = []os.Signal{os.Interrupt}

// upgradeSignal is none: there are no upgrades.
var upgradeSignal os.Signal

// hasGot says whether a command that we run has got a signal by itself.
func hasGot(os.Signal) bool { return false }

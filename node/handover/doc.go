// Package handover replaces a running process by a new one of its program, without a
// moment in which nobody serves.
//
// The old process starts the new one with its sockets ([Program.Start]), and then
//
//	old            new
//	  <-- ready --      it could serve
//	  --- go ---->      from here on it does, and so does the old one
//	  <- serving --     from here on the old one is no longer needed
//	   -- (end) -->     what they cannot share is the new one's
//
// Until the third of these the old process serves, whatever becomes of the new one, which
// is told to end ([Successor.End]) if it takes too long. A new process whose predecessor
// dies meanwhile serves: it is the only one left.
package handover

// envVar has the number of the descriptor on which the two speak.
const envVar = "ROSTER_HANDOVER"

// What they say.
const (
	ready   = 'r'
	proceed = 'g'
	serving = 's'
	remain  = 'n' // from old to new, at any time: the old one serves on
)

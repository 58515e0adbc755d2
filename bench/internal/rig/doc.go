// Package rig is what the measuring programs in bench have in common: processes on cores of
// their own, what they use, and how results are written.
package rig

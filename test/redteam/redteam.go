// Package redteam launches malicious images with the real tender, through the
// real stage, and shows how each of them ends. Attacker is an image that is
// hostile from its first word; testdata/hostile is the application of one that
// was built as any other, and taken over.
package redteam

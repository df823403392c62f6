// Package link tries the network between a microVM and its tender with both ends of it:
// package netstack/direct, and packages tender/usernet and tender/forward.
package link

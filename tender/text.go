package tender

import "lorica.dev/lorica/abi/audit"

// printable makes text of an image fit to be shown.
func printable(s string) string { return audit.Printable(s) }

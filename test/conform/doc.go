// Package conform holds what images decide to independent references: the
// compiled Cedar evaluator to cedar-go, and a whole compiled deployment to the
// evaluator of package policy. It is the only package that may import both
// halves of Lorica.
package conform

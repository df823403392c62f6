module example.com/override

go 1.26.3

require lorica.dev/lorica v0.0.0

// For the editor and "go test": an image brings Lorica's module itself.
replace lorica.dev/lorica => ../../..

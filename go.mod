module lorica.dev/lorica

go 1.26

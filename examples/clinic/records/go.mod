module clinic.example/records

go 1.26

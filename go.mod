module fanfare

go 1.25.0

async (event, steps) => {
	return " text ";
}
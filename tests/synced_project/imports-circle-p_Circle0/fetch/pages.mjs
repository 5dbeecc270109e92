import { size } from "./sizes.mjs";

export const page = (number) => number * size;

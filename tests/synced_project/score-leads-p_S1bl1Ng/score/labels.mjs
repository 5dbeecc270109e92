export const label = (points, { hot }) => (points >= hot ? "hot" : "cold");

export const points = (company, targets) => (targets.includes(company) ? 10 : 1);
